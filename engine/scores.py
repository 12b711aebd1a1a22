"""Log-probabilities of sampled tokens and of the likeliest in their places, for the rows that ask for them.

They are the model's own: of the distribution before temperature, filters and masks.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .step import DecodeRow, TokenScore


@dataclass(frozen=True, slots=True)
class Scores:
    """One step's, still on the device."""

    rows: list[DecodeRow]  # that ask
    own: mx.array  # (rows,)
    top: mx.array  # (rows, n) tokens, in no order
    top_own: mx.array  # (rows, n)

    def arrays(self) -> list[mx.array]:
        """What a step has to evaluate."""
        return [self.own, self.top, self.top_own]

    def read(self) -> dict[int, TokenScore]:
        """Wait for them; by seq_id, the likeliest first."""
        own, top, top_own = (np.array(array) for array in self.arrays())
        scores = {}
        for i, row in enumerate(self.rows):
            ranked = sorted(zip(top_own[i].tolist(), top[i].tolist(), strict=True), key=lambda pair: -pair[0])
            likeliest = [(token, logprob) for logprob, token in ranked[: row.sampling.logprobs]]
            scores[row.seq_id] = TokenScore(float(own[i]), likeliest)
        return scores


def score(logits: mx.array, rows: list[DecodeRow], tokens: mx.array) -> Scores | None:
    """Score the rows that ask; None when none does. logits: (rows, vocab), tokens: (rows,); lazy."""
    places = [i for i, row in enumerate(rows) if row.sampling.logprobs is not None]
    if not places:
        return None
    asking, chosen = [rows[place] for place in places], mx.array(places)
    logprobs = logits[chosen].astype(mx.float32)
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    own = mx.take_along_axis(logprobs, mx.maximum(tokens[chosen], 0)[:, None], axis=-1)[:, 0]
    num_top = min(max(row.sampling.logprobs or 0 for row in asking), logits.shape[-1])
    top = mx.argpartition(-logprobs, max(num_top - 1, 0), axis=-1)[:, :num_top]
    return Scores(asking, own, top, mx.take_along_axis(logprobs, top, axis=-1))
