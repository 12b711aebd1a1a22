"""What a report says of sessions whose agents wait, compute, decode, run tools or do nothing."""

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.scheduler.origin import Account, Origin
from pensieve.scheduler.sequence import Request, Sequence
from pensieve.scheduler.session_report import MAX_AGENTS, MAX_ROWS, SessionReport, report_sessions
from pensieve.scheduler.session_usage import MEMORY_S, SessionUsage

from .driver import Driver, request

PROMPT = 4 * BLOCK_SIZE


def add(driver: Driver, seed: int, session: str, agent: str = "", account: str = "") -> Sequence:
    plain = request([seed] * (PROMPT + 1), 8)
    origin = Origin(
        session=session,
        agent=agent,
        request_class="subagent" if agent else "main",
        folder="pensieve",
        account=Account(account),
    )
    return driver.scheduler.add(Request(plain.prompt, plain.sampling, 8, origin=origin))


def reports(driver: Driver, now_s: float = 0.0, account: str | None = None) -> dict[str, SessionReport]:
    return {one.name: one for one in report_sessions(driver.scheduler, {}, now_s, account)}


def test_a_session_goes_from_the_queue_through_its_prompt_and_its_answer_to_its_tools() -> None:
    driver = Driver(max_batch=1, step_tokens=BLOCK_SIZE)
    first, second = add(driver, 1, "one"), add(driver, 2, "two")
    waiting = [
        (one.name, one.state, one.activity and one.activity.position) for one in reports(driver).values()
    ]
    assert waiting == [("two", "queued", 1), ("one", "queued", 0)]
    driver.step()
    found = reports(driver)
    assert (found["one"].state, found["two"].state) == ("prefill", "queued")
    activity = found["one"].activity
    assert activity
    assert (activity.num_computed, activity.num_prompt) == (BLOCK_SIZE, PROMPT + 1)
    while first.is_prefilling:
        driver.step()
    assert reports(driver)["one"].state == "decode"
    driver.finish()
    driver.scheduler.sessions.answered(first, ["Bash", "Read"])
    driver.scheduler.sessions.answered(second, ())
    found = reports(driver)
    assert (found["one"].state, found["two"].state) == ("tools", "idle")
    assert found["one"].agents[0].tools == {"Bash", "Read"}
    assert (found["one"].num_prompt_tokens, found["one"].num_generated_tokens) == (PROMPT + 1, 8)
    assert (found["one"].num_tokens, found["one"].folder) == (PROMPT + 9, "pensieve")


def test_what_was_cached_counts_for_the_session_that_found_it() -> None:
    driver = Driver()
    for session in ("one", "two"):
        add(driver, 1, session)
        driver.finish()
    found = reports(driver)
    assert (found["one"].cached_share, found["two"].cached_share) == (0, PROMPT / (PROMPT + 1))


def test_a_subagent_names_its_parent_and_the_session_shows_who_is_furthest() -> None:
    driver = Driver(max_batch=1)
    first = add(driver, 1, "one")
    while not first.num_computed_tokens or first.is_prefilling:
        driver.step()
    add(driver, 2, "one", "child")
    found = reports(driver)["one"]
    assert {agent.name: agent.state for agent in found.agents} == {"child": "queued", "": "decode"}
    assert (found.state, found.num_agents) == ("decode", 2)


def test_one_account_does_not_see_another_s_sessions() -> None:
    driver = Driver()
    add(driver, 1, "hers", account="alice")
    add(driver, 2, "his", account="bob")
    assert list(reports(driver, account="alice")) == ["hers"]
    assert set(reports(driver)) == {"hers", "his"}
    assert not reports(driver, account="")


def test_a_report_s_rows_are_bounded() -> None:
    driver = Driver()
    for number in range(40):
        for agent in range(MAX_AGENTS + 4):
            driver.scheduler.end(add(driver, 1, f"{number}", f"{agent}"), "abort")
    found = reports(driver)
    assert sum(1 + len(one.agents) for one in found.values()) < MAX_ROWS + 1 + MAX_AGENTS
    assert next(iter(found)) == "39"
    assert [agent.name for agent in found["39"].agents][:2] == ["19", "18"]
    assert found["39"].num_agents == MAX_AGENTS + 4


def test_the_share_of_the_device_is_that_of_late() -> None:
    driver = Driver()
    for session in ("early", "late"):
        add(driver, 1, session)
    early, late = reversed(list(driver.scheduler.sessions))
    early.usage.charge(10**9, 0.0)
    late.usage.charge(10**9, 100 * MEMORY_S)
    found = reports(driver, now_s=100 * MEMORY_S)
    assert found["early"].device_ms == found["late"].device_ms == 1000
    assert found["early"].device_share == pytest.approx(0)
    assert found["late"].device_share == pytest.approx(1)


def test_recent_use_counts_a_third_after_a_while() -> None:
    usage = SessionUsage(0.0)
    usage.charge(300_000_000, 0.0)
    assert usage.recent_ms(MEMORY_S) == pytest.approx(300 / 2.71828, rel=1e-3)
    usage.charge(100_000_000, MEMORY_S)
    assert usage.recent_ms(MEMORY_S) == pytest.approx(100 + 300 / 2.71828, rel=1e-3)
    assert usage.device_ms == 400
