"""One vectorised sampler for the whole decode batch."""

from collections.abc import Callable
from functools import cache

import mlx.core as mx
import numpy as np

from .step import NOT_A_NUMBER, DecodeRow


def sample(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    """Choose each row's next token; (rows, vocab) -> (rows,), lazy.

    A row's token depends on its own logits, settings, seed and position only, never on its neighbours; with
    temperature 0 it is the exact argmax; a row with NaN gives NOT_A_NUMBER. Temperature comes first, then
    top_k, top_p and min_p, as in vLLM.

    Where a row's `allowed` is set, the token drawn without it stands if it is allowed; else the draw is
    repeated on the allowed logits, with the same noise. So it makes no difference whether the row is sampled
    with its mask at once, or without it and then, when the token is refused, again. Where top_k, top_p and
    min_p drop nothing, this is a draw from the masked distribution, as the noise belongs to the token.
    """
    tokens = _sample(logits, rows)
    places = [i for i, row in enumerate(rows) if row.allowed is not None]
    if not places:
        return tokens
    # The rest of the batch is not touched: its logits need not even be read again.
    chosen = mx.array(places)
    masked = [rows[place] for place in places]
    allowed = _unpack(masked, logits.shape[-1])
    first = tokens[chosen]
    stands = mx.take_along_axis(allowed, mx.maximum(first, 0)[:, None], axis=-1)[:, 0]
    again = _sample(mx.where(allowed, logits[chosen], -mx.inf), masked)
    tokens[chosen] = mx.where(stands | (first == NOT_A_NUMBER), first, again)
    return tokens


def _unpack(rows: list[DecodeRow], vocab: int) -> mx.array:
    """The rows' masks, (rows, vocab); tokens past a mask's end, as of padded embeddings, are forbidden."""
    size = -(-vocab // 8)
    packed = np.frombuffer(b"".join((row.allowed or b"")[:size].ljust(size, b"\0") for row in rows), np.uint8)
    bits = (mx.array(packed).reshape(len(rows), size, 1) >> mx.arange(8, dtype=mx.uint8)) & 1
    return bits.reshape(len(rows), 8 * size)[:, :vocab].astype(mx.bool_)


def _sample(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    """As `sample`, whatever the rows allow."""
    settings = [row.sampling for row in rows]
    if all(s.is_greedy for s in settings):
        return _for_device(_greedy)(logits)
    shares = mx.array([[0.0 if s.is_greedy else s.temperature, s.top_p, s.min_p] for s in settings])
    numbers = [[s.top_k, _fold(s.seed), row.position] for s, row in zip(settings, rows, strict=True)]
    drops = any(s.top_k or s.top_p < 1 or s.min_p > 0 for s in settings)
    return _for_device(_draw_kept if drops else _draw)(logits, shares, mx.array(numbers, mx.uint32))


@cache
def _for_device(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The function compiled, where MLX needs no C++ compiler on the user's machine for that."""
    return mx.compile(function) if mx.default_device() == mx.Device(mx.gpu) else function


def _greedy(logits: mx.array) -> mx.array:
    return _finish(logits, mx.argmax(logits, axis=-1))


def _draw(logits: mx.array, shares: mx.array, numbers: mx.array) -> mx.array:
    """shares: (rows, 3) temperature, top_p, min_p. numbers: (rows, 3) top_k, folded seed, position."""
    scores = _scores(logits, shares)
    return _mix(logits, shares, mx.argmax(scores + _gumbel(numbers, logits.shape[-1]), axis=-1))


def _draw_kept(logits: mx.array, shares: mx.array, numbers: mx.array) -> mx.array:
    """As _draw, after dropping what each row's top_k, top_p and min_p drop."""
    scores = _scores(logits, shares)
    order = mx.argsort(-scores, axis=-1)
    ranked = _keep(mx.take_along_axis(scores, order, axis=-1), shares, numbers)
    # The noise belongs to the token, not to its rank: else a neighbour's top_k would change this row's token.
    noise = mx.take_along_axis(_gumbel(numbers, logits.shape[-1]), order, axis=-1)
    choice = mx.argmax(ranked + noise, axis=-1, keepdims=True)
    return _mix(logits, shares, mx.take_along_axis(order, choice, axis=-1)[:, 0])


def _scores(logits: mx.array, shares: mx.array) -> mx.array:
    temperature = shares[:, :1]
    return logits.astype(mx.float32) / mx.where(temperature > 0, temperature, 1.0)


def _mix(logits: mx.array, shares: mx.array, drawn: mx.array) -> mx.array:
    """The drawn tokens, but the exact argmax where the temperature is 0."""
    return _finish(logits, mx.where(shares[:, 0] > 0, drawn, mx.argmax(logits, axis=-1)))


def _finish(logits: mx.array, tokens: mx.array) -> mx.array:
    return mx.where(mx.isnan(logits).any(axis=-1), NOT_A_NUMBER, tokens.astype(mx.int32))


def _keep(ranked: mx.array, shares: mx.array, numbers: mx.array) -> mx.array:
    """Set to -inf what each row's top_k, top_p and min_p drop; `ranked` falls along the last axis."""
    vocab = ranked.shape[-1]
    top_k, top_p, min_p = numbers[:, :1], shares[:, 1:2], shares[:, 2:3]
    rank = mx.arange(vocab)[None]
    keep = (rank < top_k.astype(mx.int32)) | (top_k == 0)
    probs = mx.softmax(mx.where(keep, ranked, -mx.inf), axis=-1)
    before = mx.cumsum(probs, axis=-1) - probs  # mass of the likelier tokens
    keep = keep & (before < top_p) & (probs >= min_p * probs[:, :1])
    return mx.where(keep | (rank == 0), ranked, -mx.inf)


def _gumbel(numbers: mx.array, vocab: int) -> mx.array:
    """Gumbel noise, (rows, vocab), from each row's seed and position alone (Gumbel-max sampling)."""
    return mx.vmap(lambda key: mx.random.gumbel((vocab,), key=key))(numbers[:, 1:])


def _fold(seed: int) -> int:
    """A 64-bit seed as 32 bits."""
    return (seed ^ (seed >> 32) * 0x9E3779B1) & 0xFFFFFFFF
