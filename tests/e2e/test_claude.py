"""The main job: the real Claude Code completes real tasks against `pensieve serve` with the demo model."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pensieve.bench.claude import TASKS, Session, attempt, three_turns
from pensieve.bench.client import read_metric

from ..budget import trials


@pytest.mark.parametrize("name", ["run", "read", "edit"])
def test_claude_completes_a_task(server: str, claude: str, name: str) -> None:
    seeds = [f"test-{name}-{i}" for i in range(trials(1, 3))]
    outcomes = [attempt(TASKS[name], Session(server, claude), seed) for seed in seeds]
    assert [right for right, _ in outcomes] == [True] * len(seeds)


@pytest.mark.slow
def test_claude_completes_three_turns_of_one_conversation(server: str, claude: str) -> None:
    right, _ = attempt(three_turns, Session(server, claude), "test-turns")
    assert right


@pytest.mark.slow  # to prefill the full prompt takes minutes without a GPU
def test_claude_completes_a_task_on_its_full_prompt(server: str, claude: str) -> None:
    right, _ = attempt(TASKS["read"], Session(server, claude, bare=False, timeout_s=600), "test-full")
    assert right


@pytest.mark.slow
def test_four_sessions_at_once_succeed_and_compute_their_prefix_once(cold_server: str, claude: str) -> None:
    """Every session sends two prompts, its task and the tool's result; all begin with the same tools."""
    tasks = [TASKS["run"], TASKS["read"], TASKS["edit"], TASKS["run"]]
    sessions = [Session(cold_server, claude) for _ in tasks]
    with ThreadPoolExecutor(4) as users:
        outcomes = list(users.map(attempt, tasks, sessions, [f"test-four-{i}" for i in range(4)]))
    assert [right for right, _ in outcomes] == [True] * 4
    asked = read_metric(cold_server, "pensieve_prefix_cache_queries_total")
    computed = asked - read_metric(cold_server, "pensieve_prefix_cache_hits_total")

    assert computed < 0.2 * asked  # 0.38 when each computes the tools for itself
