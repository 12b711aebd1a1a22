"""The MLX side of Pensieve: loads a model, plans its memory and runs its steps."""

from typing import Final

from .blas import load_system_blas

# Loaded here, so that no module of the engine imports mlx before OpenBLAS.
SYSTEM_BLAS: Final = load_system_blas()
"""File name of the OpenBLAS that MLX's CPU device uses, None when it uses its own."""
