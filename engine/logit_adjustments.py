"""Penalties, biases and forbidden tokens: changes of single rows' logits before their tokens are chosen.

The tokens that an answer holds already cross from the scheduler with each row that asks (`step.Adjustment`);
the engine keeps no state of a sequence. In a row that is planned one step ahead, the newest token is still on
the device: it is counted there.

The order is vLLM's for penalties: first repetition (Keskar et al. 2019: positive logits are divided, others
multiplied), then frequency and presence (as OpenAI defines them); biases are added last.
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .row_selection import take_rows
from .step import Adjustment, DecodeRow

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

FORBIDDEN = -1e30
"""Puts a forbidden token's logit below every other token's, and above those that a mask forbids (-inf)."""


class DenseAdjustments(NamedTuple):
    """What some rows add to or multiply their logits by, for each token of the vocabulary, (rows, vocab)."""

    counts: Floats  # how often the answer holds the token; the pending token is not counted
    in_prompt: npt.NDArray[np.bool_]
    bias: Floats


def adjust_on_device(logits: mx.array, rows: list[DecodeRow], inputs: mx.array | None) -> mx.array:
    """Return logits with the adjustments of the rows that have one; the array itself where no row has.

    inputs: (rows,) the token that each row feeds; needed where an adjusted row's token is pending.
    Other rows' logits stay the same values, as float32.
    """
    places = [i for i, row in enumerate(rows) if row.adjustment is not None]
    if not places:
        return logits
    asking, vocab = [rows[place] for place in places], logits.shape[-1]
    counts, in_prompt, bias = (mx.array(part) for part in _dense(asking, vocab))
    if inputs is not None:
        pending = mx.array([row.token is None for row in asking])[:, None]
        counts = counts + (pending & (mx.arange(vocab)[None] == take_rows(inputs, places)[:, None]))
    penalties = mx.array(np.array([_penalties(row) for row in asking], np.float32))
    repetition, frequency, presence = penalties[:, :1], penalties[:, 1:2], penalties[:, 2:]
    logits = logits.astype(mx.float32)
    own, is_used = take_rows(logits, places), counts > 0
    repeated = mx.where(own > 0, own / repetition, own * repetition)
    own = mx.where(is_used | in_prompt, repeated, own) - frequency * counts - presence * is_used + bias
    sources = {place: len(rows) + i for i, place in enumerate(places)}
    return take_rows(mx.concatenate([logits, own]), [sources.get(i, i) for i in range(len(rows))])


def adjust_on_host(logits: Floats, row: DecodeRow, fed: int | None) -> Floats:
    """Return one row's logits, (vocab,), with its adjustment; the array itself where it has none.

    fed: the token that the row feeds; needed where it is pending.
    """
    if row.adjustment is None:
        return logits
    repetition, frequency, presence = (np.float32(penalty) for penalty in _penalties(row))
    held, counts, prompt = (np.frombuffer(part, np.int32) for part in row.adjustment[:3])
    if row.token is None:
        assert fed is not None, "a pending token has been sampled"
        held, counts = _counted_once_more(held, counts, fed)
    adjusted = logits.copy()
    if repetition != 1:
        is_seen = np.zeros(len(logits), np.bool_)
        is_seen[held] = is_seen[prompt] = True
        own = logits[is_seen]
        adjusted[is_seen] = np.where(own > 0, own / repetition, own * repetition)
    adjusted[held] -= frequency * counts.astype(np.float32) + presence
    for token, bias in row.sampling.logit_bias:
        adjusted[token] += np.float32(bias)
    adjusted[list(row.adjustment.forbidden)] = FORBIDDEN
    return adjusted


def _counted_once_more(held: Ints, counts: Ints, token: int) -> tuple[Ints, Ints]:
    """Return tokens and their counts with one more occurrence of `token`."""
    if token in held:
        return held, counts + (held == token)
    return np.append(held, np.int32(token)), np.append(counts, np.int32(1))


def _penalties(row: DecodeRow) -> tuple[float, float, float]:
    sampling = row.sampling
    return sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty


def _dense(rows: list[DecodeRow], vocab: int) -> DenseAdjustments:
    """Spread the rows' adjustments over the vocabulary. Dense, because MLX compiles scatters on CUDA."""
    shape = (len(rows), vocab)
    dense = DenseAdjustments(
        np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
    )
    for i, row in enumerate(rows):
        adjustment = row.adjustment or Adjustment()
        held, counts = (np.frombuffer(part, np.int32) for part in (adjustment.tokens, adjustment.counts))
        dense.counts[i, held] = counts
        dense.in_prompt[i, np.frombuffer(adjustment.prompt, np.int32)] = True
        for token, bias in row.sampling.logit_bias:
            dense.bias[i, token] = bias
        for token in adjustment.forbidden:
            dense.bias[i, token] = FORBIDDEN
    return dense
