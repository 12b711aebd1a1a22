"""Steps a scheduler without asyncio."""

from typing import Protocol

from pensieve.engine.step import StepFailed, StepPlan, StepsDone
from pensieve.scheduler.scheduler import Scheduler


class StepRunner(Protocol):
    """The engine's side: an `engine.runner.Runner`, or an oracle."""

    def step(self, plan: StepPlan) -> StepsDone: ...

    def drain(self) -> StepsDone: ...


class Stepper:
    """A scheduler over a runner, stepped by hand; checks the scheduler's accounts after every step."""

    def __init__(self, scheduler: Scheduler, runner: StepRunner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    def step(self) -> StepPlan | None:
        plan = self.scheduler.schedule()
        running = {sequence.seq_id for sequence in self.scheduler.queues.running}
        assert plan is None or running.issuperset(plan.seq_ids)
        self.take(self.runner.drain() if plan is None else self.runner.step(plan))
        self._check()
        return plan

    def take(self, done: StepsDone) -> None:
        """Give the scheduler what the runner has done."""
        for time in done.times:
            self.scheduler.take_time(time)
        for result in done.results:
            self.scheduler.update(result)

    def finish(self, recovers: bool = False) -> None:
        """Step until nothing is left to do. recovers: after steps that fail, too."""
        for _ in range(100_000):
            if not self.scheduler.has_work:
                return
            if recovers:
                self.step_or_recover()
            else:
                self.step()
        raise AssertionError("the scheduler makes no progress")

    def step_or_recover(self) -> None:
        """Step; where the step fails, recover."""
        try:
            self.step()
        except StepFailed:
            self.scheduler.fail()
            self._check()

    def _check(self) -> None:
        """Every held block is held by a running sequence or a restore; a committed token is computed."""
        queues = self.scheduler.queues
        held = {block for sequence in queues.running for block in sequence.block_table.blocks}
        held |= {block for restore in self.scheduler.disk.restores for block in restore.held}
        assert self.scheduler.kv_cache.allocator.num_held == len(held)
        assert not any(sequence.block_table.blocks for sequence in queues.waiting)
        assert all(
            sequence.num_committed_tokens <= sequence.num_computed_tokens for sequence in queues.running
        )
        self._check_states()

    def _check_states(self) -> None:
        """A held slot or block of a state is a running sequence's or a restore's, a cached one the tree's."""
        queues, states = self.scheduler.queues, self.scheduler.kv_cache.states
        kept = [held.state for sequence in queues.running for held in sequence.states.all]
        kept += [restore.state for restore in self.scheduler.disk.restores if restore.state is not None]
        held = {state.slot for state in kept} - {None}
        assert states.slots.num_held == len(held)
        assert not any(sequence.states.all for sequence in queues.waiting)
        cached = {one.state.slot for one in states.checkpoints} - {None}
        assert len(cached | held) == states.slots.num_cached + len(held)
        assert all(one.node.checkpoint is one for one in states.checkpoints)
        windows = states.windows.allocator
        held_blocks = {block for state in kept for block in state.window}
        held_blocks |= {block for sequence in queues.running for block in sequence.window_table.blocks}
        assert windows.num_held == len(held_blocks)
        cached_blocks = {block for one in states.checkpoints for block in one.state.window}
        assert len(cached_blocks | held_blocks) == windows.num_cached + windows.num_held
        assert not any(sequence.window_table.blocks for sequence in queues.waiting)
