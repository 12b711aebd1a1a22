"""One vectorised sampler for the whole decode batch."""

import mlx.core as mx

from .step import NOT_A_NUMBER, DecodeRow


def sample(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    """Choose each row's next token; (rows, vocab) -> (rows,), lazy.

    A row's token depends on its own logits, settings, seed and position only, never on its neighbours; with
    temperature 0 it is the exact argmax; a row with NaN gives NOT_A_NUMBER. Temperature comes first, then
    top_k, top_p and min_p, as in vLLM.
    """
    logits = logits.astype(mx.float32)
    tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
    if not all(row.sampling.is_greedy for row in rows):
        hot = mx.array([not row.sampling.is_greedy for row in rows])
        tokens = mx.where(hot, _draw(logits, rows), tokens)
    return mx.where(mx.isnan(logits).any(axis=-1), NOT_A_NUMBER, tokens)


def _draw(logits: mx.array, rows: list[DecodeRow]) -> mx.array:
    temperature = mx.array([1.0 if row.sampling.is_greedy else row.sampling.temperature for row in rows])[
        :, None
    ]
    scores = logits / temperature
    noise = _gumbel(rows, logits.shape[-1])
    if not any(row.sampling.top_k or row.sampling.top_p < 1 or row.sampling.min_p > 0 for row in rows):
        return mx.argmax(scores + noise, axis=-1).astype(mx.int32)
    order = mx.argsort(-scores, axis=-1)
    ranked = _keep(mx.take_along_axis(scores, order, axis=-1), rows)
    # The noise belongs to the token, not to its rank: else a neighbour's top_k would change this row's token.
    noise = mx.take_along_axis(noise, order, axis=-1)
    choice = mx.argmax(ranked + noise, axis=-1, keepdims=True)
    return mx.take_along_axis(order, choice, axis=-1)[:, 0].astype(mx.int32)


def _keep(ranked: mx.array, rows: list[DecodeRow]) -> mx.array:
    """Set to -inf what each row's top_k, top_p and min_p drop; `ranked` falls along the last axis."""
    vocab = ranked.shape[-1]
    top_k = mx.array([min(row.sampling.top_k, vocab) or vocab for row in rows])[:, None]
    top_p = mx.array([row.sampling.top_p for row in rows])[:, None]
    min_p = mx.array([row.sampling.min_p for row in rows])[:, None]
    rank = mx.arange(vocab)[None]
    keep = rank < top_k
    probs = mx.softmax(mx.where(keep, ranked, -mx.inf), axis=-1)
    before = mx.cumsum(probs, axis=-1) - probs  # mass of the likelier tokens
    keep = keep & (before < top_p) & (probs >= min_p * probs[:, :1])
    return mx.where(keep | (rank == 0), ranked, -mx.inf)


def _gumbel(rows: list[DecodeRow], vocab: int) -> mx.array:
    """Gumbel noise, (rows, vocab), from each row's seed and position alone (Gumbel-max sampling)."""
    keys = [[_fold(row.sampling.seed), row.position] for row in rows]
    return mx.vmap(lambda key: mx.random.gumbel((vocab,), key=key))(mx.array(keys, mx.uint32))


def _fold(seed: int) -> int:
    """A 64-bit seed as 32 bits."""
    return (seed ^ (seed >> 32) * 0x9E3779B1) & 0xFFFFFFFF
