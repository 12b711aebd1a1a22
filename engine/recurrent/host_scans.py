"""Recurrences of single elements in NumPy, for MLX's CPU device: Mamba 1 and Griffin's RG-LRU.

Nothing in them is a matmul; a loop over tokens remains, of a few operations on arrays that stay in the cache.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CHUNK = 32
"""Tokens whose decays are computed at once."""


def selective_scan(
    inputs: Floats, steps: Floats, rates: Floats, ends: tuple[Floats, Floats], state: Floats
) -> Floats:
    """Compute Mamba's scan (Gu and Dao 2023) of one sequence.

    inputs, steps: (tokens, channels). rates: (channels, size), at most 0. ends: how inputs go into the
    state and how it is read, each (tokens, size). state: (channels, size), replaced in place. Returns what
    the tokens read, (tokens, channels).
    """
    into, read = ends
    out = np.empty_like(inputs)
    scaled = inputs * steps
    for first in range(0, len(inputs), CHUNK):
        decays = np.exp(steps[first : first + CHUNK, :, None] * rates)
        added = scaled[first : first + CHUNK, :, None] * into[first : first + CHUNK, None]
        for index in range(len(decays)):
            np.multiply(state, decays[index], out=state)
            np.add(state, added[index], out=state)
            np.matmul(state, read[first + index], out=out[first + index])
    return out


def linear_scan(inputs: Floats, decays: Floats, state: Floats) -> Floats:
    """Return the states of `state = state * decay + input`, token by token.

    inputs, decays: (tokens, channels). state: (channels,), before the tokens.
    """
    states = inputs.copy()
    before = state
    for index in range(len(states)):
        states[index] += decays[index] * before
        before = states[index]
    return states
