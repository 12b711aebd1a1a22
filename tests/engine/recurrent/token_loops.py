"""Random inputs of recurrences, and mlx-lm's own functions over them."""

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.models.gated_delta import gated_delta_ops

Floats = npt.NDArray[np.float32]


class DeltaCase:
    """A random batch for the gated delta rule."""

    def __init__(
        self, seed: int, shape: tuple[int, ...], by_element: bool, repeats_keys: bool = False
    ) -> None:
        """shape: rows, tokens, key heads, value heads, key dim, value dim."""
        rng = np.random.default_rng(seed)
        rows, tokens, key_heads, heads, key_dim, value_dim = shape
        self.queries = unit(rng, rows, tokens, key_heads, key_dim)
        self.keys = unit(rng, rows, tokens, key_heads, key_dim)
        if repeats_keys:  # as the same token over and over: the triangular system is then hardest
            self.keys[:] = self.keys[:, :1]
        self.values = rng.standard_normal((rows, tokens, heads, value_dim), np.float32)
        gates = (rows, tokens, heads, key_dim) if by_element else (rows, tokens, heads)
        self.log_decays = -np.exp(rng.uniform(-12, 5, gates)).astype(
            np.float32
        )  # decays of 1 - 1e-5 to 1e-64
        self.betas = rng.choice([0.0, 1.0, 0.5], (rows, tokens, heads)).astype(np.float32)
        self.state = rng.standard_normal((rows, heads, value_dim, key_dim), np.float32)

    def loop(self) -> tuple[Floats, Floats]:
        """Return what mlx-lm's loop over tokens returns."""
        arrays = (self.queries, self.keys, self.values, np.exp(self.log_decays), self.betas, self.state)
        out, state = gated_delta_ops(*(mx.array(array) for array in arrays))
        return np.array(out), np.array(state)


def unit(rng: np.random.Generator, *shape: int) -> Any:
    """Random vectors of length 1."""
    vectors = rng.standard_normal(shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def distance(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number expected."""
    return float(np.abs(np.array(found) - np.array(expected)).max() / np.abs(np.array(expected)).max())
