"""Measures parts of the server in the measuring process. A module may import the part that it measures."""

from ... import engine  # noqa: F401  # loads OpenBLAS; after MLX has been imported it would have no effect
