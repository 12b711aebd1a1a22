"""What a step computes, in the numbers that its time depends on."""

from typing import NamedTuple

from ..engine.step import StepPlan


class StepLoad(NamedTuple):
    """The size of one step: its decode rows and its slices of prompts."""

    rows: int = 0  # decode rows
    rows_context: int = 0  # tokens that the decode rows attend to, all rows together
    slices: int = 0  # slices of prompts
    tokens: int = 0  # prompt tokens, all slices together
    pairs: int = 0  # pairs of a prompt token and a token that it attends to, all slices together

    @classmethod
    def of(cls, plan: StepPlan) -> "StepLoad":
        """Return the load of `plan`."""
        load = cls(len(plan.decode), sum(row.position + 1 for row in plan.decode))
        for chunk in plan.prefill:
            load = load.with_slice(chunk.start, len(chunk.tokens))
        return load

    def with_slice(self, start: int, num_tokens: int) -> "StepLoad":
        """Return this load and one slice more: `num_tokens` tokens of a prompt, the first at `start`."""
        pairs = self.pairs + num_tokens * start + num_tokens * (num_tokens + 1) // 2
        return StepLoad(self.rows, self.rows_context, self.slices + 1, self.tokens + num_tokens, pairs)
