"""The MLX side of Pensieve: loads a model, plans its memory and runs its steps."""

from typing import Final

from .blas import load_system_blas

# Here and not where it is used: whoever imports a module of the engine must not get mlx before OpenBLAS.
SYSTEM_BLAS: Final = load_system_blas()
"""File name of the OpenBLAS that MLX's CPU device uses, None when it uses its own."""
