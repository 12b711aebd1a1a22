"""Failures inside a step, and the border to plain data."""

import pickle
import random
from typing import Any

import mlx.core as mx
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, StepFailed, StepPlan, StepsDone
from pensieve.engine.step_in_flight import Sampled
from pensieve.scheduler.sequence import Sequence

from .harness import Machine, Verdict
from .poisoned_runner import PoisonedRunner

BOTH = pytest.mark.parametrize("on_host", [True, False])


class Broken(Runner):
    """Raises in the middle of steps that hold a token it does not like, when KV is already written."""

    bad_token = 511

    def _forward(self, plan: StepPlan) -> Sampled:
        sampled = super()._forward(plan)
        fed = [row.token for row in plan.decode] + [token for chunk in plan.prefill for token in chunk.tokens]
        if self.bad_token in fed:
            raise RuntimeError("[metal] injected")
        return sampled


@BOTH
def test_neighbours_of_a_failed_step_stay_exact(model: Any, on_host: bool) -> None:
    """Dropping the bad row and going on corrupted every neighbour in a trial with mlx-lm's own generator."""
    rng, verdict = random.Random(1), Verdict()
    machine = Machine(Broken(probe(model, 16), Capacity(100), on_host, mixed_tokens=40), num_blocks=100)
    good: list[Sequence] = []
    for i in range(8):
        prompt = [rng.randrange(500) for _ in range(rng.randint(20, 80))]
        good.append(machine.add(prompt, 30))
        if i % 3 == 2:
            bad = machine.add([*prompt[:15], Broken.bad_token, 4, 4], 30)
        for _ in range(i):
            try:
                machine.step()
            except StepFailed:
                machine.scheduler.fail()
    machine.finish(recovers=True)
    assert bad.finish_reason == "error"
    finished = [sequence for sequence in good if sequence.finish_reason == "length"]
    assert len(finished) >= 6, "only a sequence that samples the bad token itself may fail"
    for sequence in finished:
        verdict.judge(model, sequence)
    assert verdict.wrong == 0


class Poisoned(PoisonedRunner):
    """Gives NaN logits to one row of the fifth step."""

    def is_poisoned(self, row: DecodeRow) -> bool:
        return row.seq_id == 2 and row.position > 24


@BOTH
def test_not_a_number_ends_one_sequence_and_leaves_the_others_exact(model: Any, on_host: bool) -> None:
    runner, verdict = Poisoned(probe(model, 16), Capacity(100), on_host, mixed_tokens=40), Verdict()
    machine = Machine(runner, num_blocks=100)
    sequences = [machine.add([i, 3, 5] * 7, 20) for i in range(4)]
    machine.finish()
    assert [s.finish_reason for s in sequences] == ["length", "error", "length", "length"]
    for sequence in (sequences[0], *sequences[2:]):
        verdict.judge(model, sequence)
    assert verdict.wrong == 0


def test_slices_are_queued_behind_their_steps_tokens_and_timed_at_their_end(model: Any) -> None:
    """MLX may block the host until most of what it is given is computed; no tokens may wait for that."""
    runner = Runner(probe(model, 16), Capacity(20), on_host=False)
    row = DecodeRow(1, 5, 0, ((0, 1),), SamplingParams())
    slices = [PrefillChunk(2, [1, 2, 3], 0, ((64, 67),))]
    assert runner.step(StepPlan(1, [row])) == StepsDone(), "the next step is to be queued before this is read"
    done = runner.step(StepPlan(2, [row._replace(position=1, slot_ranges=((0, 2),))], slices))
    assert [result.step_id for result in done.results] == [1, 2]
    assert [time.step_id for time in done.times] == [1]
    runner.proceed()
    done = runner.drain()
    assert not done.results
    assert [time.step_id for time in done.times] == [2]
    assert runner.drain() == StepsDone()


def test_the_failure_of_queued_slices_is_raised_by_the_next_call(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(probe(model, 16), Capacity(20), on_host=False)
    row = DecodeRow(1, 5, 0, ((0, 1),), SamplingParams())
    assert runner.step(StepPlan(1, [row], [PrefillChunk(2, [1, 2, 3], 0, ((64, 67),))])).results

    def fail(*_: mx.array) -> None:
        raise RuntimeError("[metal] injected")

    with monkeypatch.context() as patch:
        patch.setattr(mx, "async_eval", fail)
        runner.proceed()
    with pytest.raises(StepFailed, match="injected"):
        runner.step(StepPlan(2, [row]))
    assert runner.step(StepPlan(3, [], [PrefillChunk(2, [1, 2, 3], 0, ((64, 67),))])).results


def test_plans_can_cross_a_process_border(model: Any) -> None:
    machine = Machine(Runner(probe(model, 16), Capacity(20), True), num_blocks=20)
    machine.add([1, 2, 3] * 30, 4)
    plan = machine.scheduler.schedule()
    assert plan is not None
    assert pickle.loads(pickle.dumps(plan)) == plan
