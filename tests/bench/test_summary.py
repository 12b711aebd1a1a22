"""Figures, worked out by hand."""

from typing import Any

import pytest

from pensieve.bench.dialects import TokenUsage
from pensieve.bench.fairness import jain
from pensieve.bench.fleet import PlayedTrace, Record
from pensieve.bench.summary import Percentiles, cache_state, percentile, percentiles, summarise


def record(session: int = 0, turn: int = 1, **fields: Any) -> Record:
    """A request that got three tokens: after 1 s, 1.5 s and 3 s."""
    defaults: dict[str, Any] = {
        "agent": "main",
        "start_s": 0.0,
        "previous_prompt": None,
        "end_s": 4.0,
        "delta_s": [1.0, 1.5, 3.0],
        "usage": TokenUsage(100, 0, 3),
        "outcome": "done",
    }
    return Record(session, turn, **(defaults | fields))


def test_percentiles_lie_between_neighbours_by_proportion() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 1.0)] == [
        1.0,
        2.5,
        pytest.approx(3.7),
        4.0,
    ]


def test_percentiles_of_nothing_are_unknown() -> None:
    assert percentile([], 0.5) is None
    assert percentiles([None]) == Percentiles(0, None, None, None, None, None)


def test_a_single_value_is_every_percentile() -> None:
    assert percentiles([None, 2.0]) == Percentiles(1, 2.0, 2.0, 2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("rates", "index"), [([3.0, 3.0, 3.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([1.0, 3.0], 0.8), ([], 1.0)]
)
def test_jains_index(rates: list[float], index: float) -> None:
    assert jain(rates) == pytest.approx(index)


@pytest.mark.parametrize(
    ("cached", "previous", "state"),
    [
        (None, 90, "unknown"),
        (0, None, "cold"),
        (4, None, "cold"),
        (60, None, "partial"),
        (60, 90, "partial"),
        (86, 90, "hit"),
    ],
)
def test_a_hit_is_all_that_the_conversation_sent_before(
    cached: int | None, previous: int | None, state: str
) -> None:
    assert cache_state(record(usage=TokenUsage(100, cached, 1), previous_prompt=previous)) == state


def test_a_run_is_summed_up() -> None:
    records = [
        record(),
        record(turn=2, usage=TokenUsage(200, 100, 3), previous_prompt=100, delta_s=[0.5], end_s=2.0),
        record(session=1, agent="subagent", outcome="cancelled", usage=TokenUsage(50)),
        record(session=1, outcome="error", error="lost", delta_s=[], end_s=8.0, usage=TokenUsage()),
    ]
    summary = summarise(PlayedTrace(records, wall_s=10.0))
    assert (summary.requests, summary.done, summary.cancelled, summary.errors) == (4, 2, 1, 1)
    assert (summary.output_tokens, summary.deltas) == (9, 7)  # a cancelled request counts what it got
    assert summary.output_tokens_per_s == 0.9
    assert (summary.prompt_tokens, summary.cached_tokens) == (350, 100)
    assert summary.fairness == pytest.approx(jain([6 / 6, 3 / 12]))
    assert summary.ttft_by_turn_s["1"].count == 1  # the subagent's is apart
    assert {name: times.count for name, times in summary.ttft_by_cache_s.items()} == {
        "cold": 1,
        "hit": 1,
        "unknown": 1,
    }
    assert summary.inter_token_s.count == 4
    assert summary.inter_token_s.max == 1.5
    assert summary.end_to_end_s == percentiles([4.0, 2.0])
    assert summary.turn_s == percentiles([3.0, 0.5])  # to the last token, of answers that came whole
    assert {turn: times.mean for turn, times in summary.turn_by_number_s.items()} == {"1": 3.0, "2": 0.5}
    assert summary.error_texts == {"lost": 1}


def test_turns_are_fair_where_all_sessions_have_the_same_mean() -> None:
    def fairness(*times: list[float]) -> float:
        records = [
            record(session=session, delta_s=[0.1, turn_s])
            for session, own in enumerate(times)
            for turn_s in own
        ]
        return summarise(PlayedTrace(records, wall_s=10.0)).turn_fairness

    assert fairness([1.0, 3.0], [2.0]) == pytest.approx(1.0)
    assert fairness([1.0, 1.0], [3.0]) == pytest.approx(0.8)


def test_device_time_is_judged_where_the_server_tells_it_of_all_sessions() -> None:
    records = [record(session=session) for session in (0, 1)]
    run = PlayedTrace(records, 10.0, ("a", "b"), (100.0, 300.0))
    assert summarise(run).device_fairness == pytest.approx(0.8)
    assert summarise(PlayedTrace(records, 10.0)).device_fairness is None
