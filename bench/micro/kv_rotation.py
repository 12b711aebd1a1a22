"""Fixed orthogonal transforms that spread the outliers of keys and values over many elements.

A rotation is a Hadamard matrix after random signs, in blocks along a head whose size is no power of two, as
QuaRot has it for keys (Ashkboos et al., 2024, arXiv 2404.00456). Keys and queries turned by it have the same
scores; values turned by it give an output that is turned back once.
"""

from typing import Any

import numpy as np

SEED = 17
"""Of the signs, which are the same in every layer and head."""


def hadamard(order: int) -> Any:
    """Return the matrix of ones and minus ones, (order, order), whose rows are orthogonal.

    order: a power of two.
    """
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < order:
        matrix = np.kron(np.array([[1, 1], [1, -1]], np.float32), matrix)
    return matrix


def default_block(dim: int) -> int:
    """Return the elements of a block: the largest power of two that divides a head of `dim` elements."""
    return dim & -dim


def rotation(dim: int, block: int) -> Any:
    """Return the orthogonal matrix, (dim, dim), that turns a head from the right, block by block."""
    signs = np.random.default_rng(SEED).choice(np.array([-1, 1], np.float32), dim)
    blocks = np.kron(np.eye(dim // block, dtype=np.float32), hadamard(block))
    matrix: Any = signs[:, None] * blocks / np.float32(block**0.5)
    return matrix
