"""Log-probabilities of sampled tokens and of the likeliest tokens at their positions, for the rows that ask.

All are the model's own: before temperature, filters and masks.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .step import DecodeRow, TokenLogprobs


@dataclass(frozen=True, slots=True)
class BatchLogprobs:
    """The log-probabilities of one step, still on the device."""

    rows: list[DecodeRow]  # rows that ask for log-probabilities
    sampled: mx.array  # (rows,) log-probabilities of the sampled tokens
    top_tokens: mx.array  # (rows, n) the likeliest tokens, in no order
    top: mx.array  # (rows, n) log-probabilities of `top_tokens`

    def arrays(self) -> list[mx.array]:
        """Return the arrays that the step has to evaluate."""
        return [self.sampled, self.top_tokens, self.top]

    def read(self) -> dict[int, TokenLogprobs]:
        """Wait for the arrays; return the log-probabilities by seq_id, the likeliest tokens first."""
        sampled, top_tokens, top = (np.array(array).tolist() for array in self.arrays())
        found = {}
        for i, row in enumerate(self.rows):
            ranked = sorted(zip(top_tokens[i], top[i], strict=True), key=lambda pair: -pair[1])
            found[row.seq_id] = TokenLogprobs(sampled[i], ranked[: row.sampling.logprobs])
        return found


def compute_logprobs(logits: mx.array, rows: list[DecodeRow], tokens: mx.array) -> BatchLogprobs | None:
    """Compute the log-probabilities of the rows that ask for them; lazy. Return None when no row asks.

    logits: (rows, vocab). tokens: (rows,), as sampled.
    """
    places = [i for i, row in enumerate(rows) if row.sampling.logprobs is not None]
    if not places:
        return None
    asking, chosen = [rows[place] for place in places], mx.array(places)
    logprobs = logits[chosen].astype(mx.float32)
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    sampled = mx.take_along_axis(logprobs, mx.maximum(tokens[chosen], 0)[:, None], axis=-1)[:, 0]
    num_top = min(max(row.sampling.logprobs or 0 for row in asking), logits.shape[-1])
    top_tokens = mx.argpartition(-logprobs, max(num_top - 1, 0), axis=-1)[:, :num_top]
    return BatchLogprobs(asking, sampled, top_tokens, mx.take_along_axis(logprobs, top_tokens, axis=-1))
