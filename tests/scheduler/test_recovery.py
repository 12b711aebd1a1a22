import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import StepFailed, StepPlan

from .driver import Driver, prompt_of, request
from .oracle import OracleRunner, spell


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("position", [10, 41, 55])
def test_a_step_that_fails_costs_its_culprit_alone(lag: int, position: int) -> None:
    driver = Driver(num_blocks=100, lag=lag)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(6)]
    bad = sequences[3].seq_id

    def breaks(plan: StepPlan) -> bool:
        reached = any(row.seq_id == bad and row.position >= position for row in plan.decode)
        return reached or any(c.seq_id == bad and c.start + len(c.tokens) > position for c in plan.prefill)

    driver.runner = OracleRunner(100 * BLOCK_SIZE, lag, breaks)
    driver.finish(recovers=True)
    for i, sequence in enumerate(sequences):
        if sequence.seq_id == bad:
            assert sequence.finish_reason == "error"
        else:
            assert sequence.tokens == spell(prompt_of(i, 40), 30)


def test_a_fault_that_passes_costs_no_sequence_of_its_step() -> None:
    driver = Driver(num_blocks=100)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(4)]
    driver.runner = OracleRunner(100 * BLOCK_SIZE, 0, lambda plan: plan.step_id == 9)
    driver.finish(recovers=True)
    for i, sequence in enumerate(sequences):
        assert sequence.tokens == spell(prompt_of(i, 40), 30)


@pytest.mark.parametrize("position", [41, 50])
def test_a_sequence_that_kills_the_engine_between_two_steps_is_found(position: int) -> None:
    """One step ahead, the engine is lost before the next plan begins, so the cause is in the plans before it.

    Once no plan was taken for the cause, and the engine was started anew for ever.
    """
    driver = Driver(num_blocks=100, lag=1)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(3)]
    bad, num_deaths, is_dead = sequences[1].seq_id, 0, False
    while driver.scheduler.has_work:
        plan = driver.scheduler.schedule()
        if is_dead:
            is_dead, num_deaths = False, num_deaths + 1
            assert num_deaths < 5
            driver.runner = OracleRunner(100 * BLOCK_SIZE, 1)
            driver.scheduler.fail(not_started=plan)
            continue
        driver.take(driver.runner.drain() if plan is None else driver.runner.step(plan))
        is_dead = plan is not None and any(r.seq_id == bad and r.position >= position for r in plan.decode)
    assert [sequence.finish_reason for sequence in sequences] == ["length", "error", "length"]


def test_a_sequence_alone_in_a_step_that_failed_once_loses_nothing() -> None:
    driver = Driver(num_blocks=100)
    sequence = driver.scheduler.add(request(prompt_of(1, 40), max_tokens=30))
    driver.runner = OracleRunner(100 * BLOCK_SIZE, 0, lambda plan: plan.step_id == 9)
    driver.finish(recovers=True)
    assert sequence.tokens == spell(prompt_of(1, 40), 30)


def test_the_others_go_on_when_an_isolated_sequence_is_cancelled() -> None:
    driver = Driver(num_blocks=100)
    sequences = [driver.scheduler.add(request(prompt_of(i, 40), max_tokens=30)) for i in range(4)]
    driver.runner = OracleRunner(100 * BLOCK_SIZE, 0, lambda plan: plan.step_id == 9)
    for _ in range(8):
        driver.step()
    with pytest.raises(StepFailed):
        driver.step()
    driver.scheduler.fail()
    driver.scheduler.end(sequences[0], "abort")
    driver.finish()
    for i, sequence in enumerate(sequences[1:], start=1):
        assert sequence.tokens == spell(prompt_of(i, 40), 30)
