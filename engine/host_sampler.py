"""The sampler of MLX's CPU device, in NumPy, a row at a time.

MLX's own operations take 1 ms a row there for the likeliest token of 152,000, 10 ms for random numbers and
60 ms for a sort. Here a row's token needs no sort of the whole vocabulary and one random number: the place
in the kept tokens' cumulated probabilities at which the token is taken.
"""

import hashlib
import struct
from collections import abc

import numpy as np
import numpy.typing as npt

from .logit_adjustments import adjust_on_host
from .step import NOT_A_NUMBER, DecodeRow, SamplingParams

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


LEAST_WEIGHTS = 2.0**-10, 2.0**-20
"""Weights, relative to the likeliest token's, at which the search for top_p's set may end."""

CHUNK = 1024
"""Weights that are added up before any of them is looked at, which takes less time than cumulated sums."""


def sample_on_host(
    logits: Floats, rows: list[DecodeRow], inputs: list[int] | None = None
) -> npt.NDArray[np.int32]:
    """Choose each row's next token: (rows, vocab) logits give (rows,) tokens; see `sampler.sample`."""
    fed: abc.Sequence[int | None] = inputs or [None] * len(rows)
    adjusted = (adjust_on_host(own, row, token) for own, row, token in zip(logits, rows, fed, strict=True))
    return np.array([_token(own, row) for own, row in zip(adjusted, rows, strict=True)], np.int32)


def _token(logits: Floats, row: DecodeRow) -> int:
    likeliest = int(logits.argmax())  # a NaN, where there is one
    if np.isnan(logits[likeliest]):
        return NOT_A_NUMBER
    token = _draw(logits, likeliest, row, 0)
    if row.allowed is None:
        return token
    allowed = np.unpackbits(np.frombuffer(row.allowed, np.uint8), count=len(logits), bitorder="little") > 0
    if allowed[token]:
        return token
    masked = np.where(allowed, logits, np.float32(-np.inf))
    return _draw(masked, int(masked.argmax()), row, 1)


def _draw(logits: Floats, likeliest: int, row: DecodeRow, attempt: int) -> int:
    """Draw a token. Each of a position's attempts has a random number of its own."""
    sampling, peak = row.sampling, logits[likeliest]
    if sampling.is_greedy or np.isinf(peak):
        return likeliest
    tokens, weights = _kept(logits, peak, sampling)
    place = _place(weights, _uniform(sampling.seed, row.position, attempt))
    if place == len(weights):  # by rounding
        return likeliest
    return place if tokens is None else int(tokens[place])


def _kept(logits: Floats, peak: np.float32, sampling: SamplingParams) -> tuple[Ints | None, Floats]:
    """Return the tokens that the filters keep, in rising order, None for all; and their weights.

    A weight is a token's probability relative to that of the likeliest one, whose logit is `peak`.
    """
    tokens = _likeliest(logits, sampling.top_k) if sampling.top_k else None
    weights = logits[tokens] - peak if tokens is not None else logits - peak
    with np.errstate(over="ignore"):  # a small temperature gives -inf, and so 0
        weights /= np.float32(sampling.temperature)
    np.exp(weights, out=weights)
    kept = _nucleus(weights, sampling.top_p) if sampling.top_p < 1 else None
    if sampling.min_p > 0:
        likely = weights >= sampling.min_p
        kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
    if kept is None:
        return tokens, weights
    return kept if tokens is None else tokens[kept], weights[kept]


def _likeliest(values: Floats, count: int) -> Ints:
    """Return the indices of the `count` largest values, in rising order; of equal values the first ones."""
    if count >= len(values):
        return np.arange(len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    found = np.flatnonzero(values >= least)
    return np.sort(found[np.argsort(-values[found], kind="stable")[:count]])


def _nucleus(weights: Floats, top_p: float) -> Ints:
    """Return the indices, in rising order, of the likeliest tokens whose probability reaches top_p.

    Floats that are not negative are ordered as their bits: the upper half of these puts tokens into buckets,
    and only the bucket in which top_p is reached is sorted.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    found = np.arange(len(weights))
    for least in LEAST_WEIGHTS:
        likely = np.flatnonzero(weights >= least)
        if weights[likely].sum(dtype=np.float64) >= wanted:
            found = likely
            break
    buckets = weights[found].view(np.uint32) >> 16
    masses = np.bincount(buckets, weights[found])
    from_above = np.cumsum(masses[::-1])
    place = min(int(np.searchsorted(from_above, wanted)), len(masses) - 1)
    last = len(masses) - 1 - place
    inside = found[buckets == last]
    ranked = inside[np.argsort(-weights[inside], kind="stable")]
    missing = wanted - (from_above[place] - masses[last])
    count = 1 + int(np.searchsorted(np.cumsum(weights[ranked], dtype=np.float64), missing))
    return np.sort(np.concatenate([found[buckets > last], ranked[:count]]))


def _place(weights: Floats, share: float) -> int:
    """Return the first index up to which the weights add up to more than `share` of their sum.

    Returns their number where rounding leaves no such index.
    """
    starts = np.arange(0, len(weights), CHUNK)
    sums = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    mass = share * sums[-1]
    chunk = int(np.searchsorted(sums, mass, "right"))
    if chunk == len(sums):
        return len(weights)
    start, before = int(starts[chunk]), sums[chunk - 1] if chunk else 0.0
    inside = np.cumsum(weights[start : start + CHUNK], dtype=np.float64) + before
    return start + int(np.searchsorted(inside, mass, "right"))


def _uniform(seed: int, position: int, attempt: int) -> float:
    """Return a random number of [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.blake2b(struct.pack("<QQB", seed, position, attempt), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / float(1 << 53)
