"""A runner whose logits are no numbers in some rows."""

from typing import Any

import mlx.core as mx

from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow


class PoisonedRunner(Runner):
    """Gives NaN to the rows that its subclass names."""

    def is_poisoned(self, row: DecodeRow) -> bool:
        """Whether a row gets NaN."""
        raise NotImplementedError

    def logits(self, rows: list[Any]) -> mx.array:
        """See Runner."""
        return self._poison(super().logits(rows), rows)

    def mixed_logits(self, rows: list[Any], chunks: list[Any]) -> mx.array | None:
        """See Runner."""
        out = super().mixed_logits(rows, chunks)
        return None if out is None else self._poison(out, rows)

    def _poison(self, out: mx.array, rows: list[Any]) -> mx.array:
        are_poisoned = [self.is_poisoned(row) for row in rows]
        return mx.where(mx.array(are_poisoned)[:, None], mx.nan, out) if any(are_poisoned) else out
