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


class SlicesInFlight(NamedTuple):
    """Slices that follow their step's decode rows on the device. Their step's result has been read.

    arrays: those whose evaluation computes the slices, until it has been queued. The first is small, and is
    there when all are: MLX tells the end of arrays that were queued together by one event.
    """

    step_id: int
    started_s: float  # the step, on the monotonic clock
    end: mx.array
    arrays: list[mx.array]

    @classmethod
    def of(cls, step: StepInFlight, arrays: list[mx.array]) -> "SlicesInFlight":
        """Return the slices of a step, whose writes are those of `arrays`."""
        end = mx.zeros((1,))
        return cls(step.plan.step_id, step.started_s, end, [end, *arrays])
