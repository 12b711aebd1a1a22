"""A step that the device computes, and its samples."""

from typing import NamedTuple

import mlx.core as mx

from .logprobs import BatchLogprobs
from .step import StepPlan
from .transfers.transfers import SavedCopy


class Sampled(NamedTuple):
    """A step's samples, still on the device."""

    tokens: mx.array  # (rows,) of the decode batch
    logprobs: BatchLogprobs | None = None

    def arrays(self) -> list[mx.array]:
        """Return the arrays that the step has to evaluate."""
        return [self.tokens, *(self.logprobs.arrays() if self.logprobs else [])]


class StepInFlight(NamedTuple):
    """A step whose result is not read yet."""

    plan: StepPlan
    sampled: Sampled
    started_s: float  # on the monotonic clock
    saved: list[SavedCopy]  # what the plan saves, as it was before the step
