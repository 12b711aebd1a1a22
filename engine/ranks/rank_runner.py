"""A runner whose model is spread over ranks: all compute each step, and rank 0 alone chooses tokens."""

from typing import Any, NoReturn

import mlx.core as mx

from ..runner import Runner
from ..step import DecodeRow, StepFailed, StepPlan, StepsDone
from ..step_in_flight import Sampled
from .plan_bytes import encode_plan
from .rank_link import FrameKind
from .rank_team import RankTeam
from .rendezvous import Group


class RankRunner(Runner):
    """The runner of any rank. Rank 0's also sends its steps to the others, once it leads them."""

    _group: Group = None
    _team: RankTeam | None = None

    @classmethod
    def of(cls, group: Group, *arguments: Any) -> "RankRunner":
        """Make the runner of a rank in MLX's group. arguments: those of Runner."""
        runner = cls(*arguments)
        runner._group = group
        return runner

    def lead(self, team: RankTeam) -> None:
        """Send the steps to the other ranks from now on."""
        self._team = team

    def step(self, plan: StepPlan) -> StepsDone:
        """See Runner.step. Where a step fails on rank 0, all ranks are lost: the others wait in their own."""
        if self._team is None:
            return super().step(plan)
        self._team.send(FrameKind.STEP, encode_plan(plan))
        try:
            return super().step(plan)
        except StepFailed as error:
            self._give_up(self._team, error)

    def drain(self) -> StepsDone:
        """See Runner.drain."""
        if self._team is None:
            return super().drain()
        self._team.send(FrameKind.DRAIN)
        try:
            return super().drain()
        except StepFailed as error:
            self._give_up(self._team, error)

    def _give_up(self, team: RankTeam, error: StepFailed) -> NoReturn:
        team.give_up(f"a step has failed on rank 0 ({error})")

    def _sample(self, logits: mx.array | None, rows: list[DecodeRow]) -> Sampled:
        """Have rank 0 choose, and give its tokens to all ranks: the others' are zeros in a sum.

        Logits may differ in their last bits from rank to rank, tokens may not: the ranks' KV would part.

        A backend takes the ranks' sums for the same if they come at the same place in each rank's order. So
        the logits, which all ranks compute together, are queued before what rank 0 alone does with them, and
        on the host, where slices are computed next, all is computed here.
        """
        if logits is None or self._group is None:
            return super()._sample(logits, rows)
        mx.async_eval(logits)
        own = Sampled(mx.zeros((len(rows),), mx.int32))
        sampled = super()._sample(logits, rows) if self._group.rank() == 0 else own
        sampled = sampled._replace(tokens=mx.distributed.all_sum(sampled.tokens, group=self._group))
        if self._is_on_host:
            mx.eval(sampled.tokens)
        return sampled
