"""Chooses the tokens of the whole decode batch: on a GPU in vectorised MLX, on the CPU in NumPy."""

from collections.abc import Callable
from functools import cache

import mlx.core as mx
import numpy as np

from .host_sampler import sample_on_host
from .logit_adjustments import adjust_on_device
from .row_selection import take_rows
from .step import NOT_A_NUMBER, DecodeRow, SamplingParams


def sample(logits: mx.array, rows: list[DecodeRow], inputs: mx.array | None = None) -> mx.array:
    """Choose each row's next token: (rows, vocab) logits give (rows,) int32 tokens; lazy, but not on the CPU.

    A row's token depends on its own logits, settings, seed and position only, never on other rows. With
    temperature 0 it is the exact argmax; a row with NaN gives NOT_A_NUMBER. Temperature comes first, then
    top_k, top_p and min_p, as in vLLM; before all of them come the row's adjustments.

    inputs: (rows,) the token that each row feeds; needed where the token of an adjusted row is pending.

    A row with a mask, `allowed`, keeps the token that is drawn without the mask if the mask allows it; else
    the token is drawn again, from the allowed logits. So the token is the same whether the mask is known at
    once, or a token drawn without it is refused and drawn again with it. Where top_k, top_p and min_p drop
    nothing, it is drawn from the masked distribution.
    """
    if mx.default_device() == mx.Device(mx.gpu):
        return sample_on_device(logits, rows, inputs)
    fed = None if inputs is None else np.array(inputs).tolist()
    return mx.array(sample_on_host(np.asarray(logits.astype(mx.float32)), rows, fed))


def sample_on_device(logits: mx.array, rows: list[DecodeRow], inputs: mx.array | None = None) -> mx.array:
    """Choose tokens as `sample` does, in MLX; lazy.

    A token that a mask refuses is drawn again with the same noise, which belongs to the token: so the second
    draw is one from the masked distribution.
    """
    logits = adjust_on_device(logits, rows, inputs)
    tokens = _sample_unmasked(logits, rows)
    places = [i for i, row in enumerate(rows) if row.allowed is not None]
    if not places:
        return tokens
    # Only for the rows with a mask: the other rows' logits are not read again.
    masked = [rows[place] for place in places]
    allowed = _unpack_masks(masked, logits.shape[-1])
    first = take_rows(tokens, places)
    is_allowed = ((_ranks(logits.shape[-1]) == first[:, None]) & allowed).any(axis=-1)
    second = _sample_unmasked(mx.where(allowed, take_rows(logits, places), -mx.inf), masked)
    chosen = mx.where(is_allowed | (first == NOT_A_NUMBER), first, second)
    sources = {place: len(rows) + i for i, place in enumerate(places)}
    return take_rows(mx.concatenate([tokens, chosen]), [sources.get(i, i) for i in range(len(rows))])


def _unpack_masks(rows: list[DecodeRow], vocab: int) -> mx.array:
    """Return the rows' masks, (rows, vocab). Tokens past a mask's end (padded embeddings) are forbidden."""
    size = -(-vocab // 8)
    packed = np.frombuffer(b"".join((row.allowed or b"")[:size].ljust(size, b"\0") for row in rows), np.uint8)
    bits = (mx.array(packed).reshape(len(rows), size, 1) >> mx.arange(8, dtype=mx.uint8)) & 1
    return bits.reshape(len(rows), 8 * size)[:, :vocab].astype(mx.bool_)


def _sample_unmasked(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    """Choose each row's next token as `sample` does, but without masks."""
    settings = [row.sampling for row in rows]
    if all(s.is_greedy for s in settings):
        return _compiled_on_metal(_greedy)(logits)
    floats = mx.array([_floats(s) for s in settings])
    integers = [[s.top_k, _fold_seed(s.seed), row.position] for s, row in zip(settings, rows, strict=True)]
    is_filtered = any(s.top_k or s.top_p < 1 or s.min_p > 0 for s in settings)
    draw = _compiled_on_metal(_draw_filtered if is_filtered else _draw)
    return draw(logits, floats, mx.array(integers, mx.uint32))


def _floats(sampling: SamplingParams) -> list[float]:
    """Return a row's temperature, top_p and min_p.

    A top_p of 1 becomes 2: cumulated probabilities may exceed 1 by rounding, and all tokens are to be kept,
    as in batches without filters.
    """
    temperature = 0.0 if sampling.is_greedy else sampling.temperature
    return [temperature, sampling.top_p if sampling.top_p < 1 else 2.0, sampling.min_p]


@cache
def _compiled_on_metal(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Compile a function on Metal only: on CUDA, MLX takes 5 s for each kernel that comes of it."""
    return mx.compile(function) if mx.metal.is_available() else function


def _greedy(logits: mx.array) -> mx.array:
    return _mark_nan(logits, mx.argmax(logits, axis=-1))


def _draw(logits: mx.array, floats: mx.array, integers: mx.array) -> mx.array:
    """Draw each row's token by the Gumbel-max trick.

    floats: (rows, 3) temperature, top_p, min_p. integers: (rows, 3) top_k, folded seed, position.
    """
    return _finish(logits, _scale(logits, floats), floats, integers)


def _draw_filtered(logits: mx.array, floats: mx.array, integers: mx.array) -> mx.array:
    """Draw as `_draw` does, from the tokens that each row's top_k, top_p and min_p keep."""
    negated = -_scale(logits, floats)
    is_kept = negated <= _last_kept(mx.sort(negated, axis=-1), floats, integers)
    return _finish(logits, mx.where(is_kept, -negated, -mx.inf), floats, integers)


def _finish(logits: mx.array, scaled: mx.array, floats: mx.array, integers: mx.array) -> mx.array:
    """Draw from scaled logits. Where the temperature is 0, without noise, that is the exact argmax."""
    noise = mx.where(floats[:, :1] > 0, _gumbel(integers, logits.shape[-1]), 0.0)
    return _mark_nan(logits, mx.argmax(scaled + noise, axis=-1))


def _scale(logits: mx.array, floats: mx.array) -> mx.array:
    """Divide the logits, as float32, by the temperature, where that is not 0."""
    temperature = floats[:, :1]
    return logits.astype(mx.float32) / mx.where(temperature > 0, temperature, 1.0)


def _mark_nan(logits: mx.array, tokens: mx.array) -> mx.array:
    """Return the tokens as int32, NOT_A_NUMBER where the row's logits hold NaN, which passes through max."""
    return mx.where(mx.isnan(logits.max(axis=-1)), NOT_A_NUMBER, tokens.astype(mx.int32))


def _last_kept(ranked: mx.array, floats: mx.array, integers: mx.array) -> mx.array:
    """Return the last of `ranked` that top_k, top_p and min_p keep, (rows, 1).

    ranked: negated scaled logits, rising. Tokens as likely as the last one are kept with it.
    """
    top_k, top_p, min_p = integers[:, :1], floats[:, 1:2], floats[:, 2:3]
    rank = _ranks(ranked.shape[-1])
    keep = (rank < top_k.astype(mx.int32)) | (top_k == 0)
    probs = mx.softmax(mx.where(keep, -ranked, -mx.inf), axis=-1)
    before = mx.cumsum(probs, axis=-1) - probs  # probability of the likelier tokens
    keep = keep & (before < top_p) & (probs >= min_p * probs[:, :1])
    return mx.where(keep | (rank == 0), ranked, -mx.inf).max(axis=-1, keepdims=True)


@cache
def _ranks(vocab: int) -> mx.array:
    """Return (1, vocab): 0, 1, 2, ..., computed, so that no step computes them again."""
    ranks = mx.arange(vocab)[None]
    mx.eval(ranks)
    return ranks


def _gumbel(integers: mx.array, vocab: int) -> mx.array:
    """Draw Gumbel noise, (rows, vocab), from each row's seed and position alone."""
    return mx.vmap(lambda key: mx.random.gumbel((vocab,), key=key))(integers[:, 1:])


def _fold_seed(seed: int) -> int:
    """Fold a 64-bit seed into 32 bits."""
    return (seed ^ (seed >> 32) * 0x9E3779B1) & 0xFFFFFFFF
