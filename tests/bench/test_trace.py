"""The same seed gives the same fleet."""

import json

import pytest

from pensieve.bench.config import BenchConfig, TraceConfig
from pensieve.bench.dialects import Anthropic, ChatMessage
from pensieve.bench.trace import Trace, make_trace

BUSY = TraceConfig(sessions=20, turns=4, tool_gap_s=2.0, subagents=0.5, cancels=0.3, ramp_s=10.0)


def head_length(trace: Trace) -> int:
    body = Anthropic().body(trace, "any", [ChatMessage("user", "hi")])
    return len(json.dumps([body.get("tools", []), body["system"]]))


def test_the_same_seed_gives_the_same_requests() -> None:
    assert make_trace(BUSY) == make_trace(BUSY)


def test_another_seed_gives_other_requests() -> None:
    first, second = make_trace(TraceConfig(seed=1)), make_trace(TraceConfig(seed=2))
    assert first.system != second.system
    assert first.sessions[0].turns[0].text != second.sessions[0].turns[0].text


def test_a_session_is_the_same_among_few_and_among_many() -> None:
    few, many = make_trace(TraceConfig(sessions=2)), make_trace(TraceConfig(sessions=9))
    assert few.sessions == many.sessions[:2]
    assert len({session.turns[0].text for session in many.sessions}) == 9


@pytest.mark.parametrize("tools", [0, 12])
def test_tools_and_system_prompt_have_the_length_asked_for(tools: int) -> None:
    trace = make_trace(TraceConfig(system_chars=24_000, tools=tools))
    assert len(trace.tools) == tools
    assert abs(head_length(trace) - 24_000) < 1000


def test_turns_have_the_length_asked_for() -> None:
    trace = make_trace(TraceConfig(turn_chars=321, subagents=1.0))
    turns = [turn for session in trace.sessions for turn in session.turns]
    assert {len(turn.text) for turn in turns} == {321}
    assert {len(turn.text) for main in turns for turn in main.subagents[0]} == {321}


def test_subagents_of_a_session_share_their_briefing() -> None:
    trace = make_trace(TraceConfig(sessions=2, subagents=1.0, turn_chars=400))
    briefings = [{turn.subagents[0][0].text[:200] for turn in session.turns} for session in trace.sessions]
    assert [len(briefing) for briefing in briefings] == [1, 1]
    assert briefings[0] != briefings[1]


def test_gaps_are_scaled_to_nothing_without_changing_the_texts() -> None:
    slow, fast = make_trace(TraceConfig(tool_gap_s=5.0)), make_trace(TraceConfig(tool_gap_s=0.0))
    assert {turn.gap_s for session in fast.sessions for turn in session.turns} == {0.0}
    assert all(turn.gap_s > 0 for session in slow.sessions for turn in session.turns[1:])
    assert slow.sessions[3].turns[2].text == fast.sessions[3].turns[2].text


def test_a_busy_fleet_arrives_slowly_and_drops_some_requests() -> None:
    trace = make_trace(BUSY)
    starts = [session.start_s for session in trace.sessions]
    cancels = [turn.cancel_after_s for session in trace.sessions for turn in session.turns]
    assert starts == sorted(starts)
    assert (starts[0], starts[-1]) == (0.0, 9.5)
    assert 0 < sum(cancel is not None for cancel in cancels) < len(cancels) / 2
    agents = [agent for session in trace.sessions for turn in session.turns for agent in turn.subagents]
    assert trace.num_requests == 80 + sum(map(len, agents)) > 80


def test_a_crowd_begins_with_the_first_request_of_the_first_session_alone() -> None:
    plain, crowded = make_trace(TraceConfig(sessions=3)), make_trace(TraceConfig(sessions=3, crowd=10))
    assert [len(plan.turns[0].subagents) for plan in crowded.sessions] == [10, 0, 0]
    assert crowded.sessions[1:] == plain.sessions[1:]
    texts = [[turn.text for turn in trace.sessions[0].turns] for trace in (plain, crowded)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "values", [{"sessions": 0}, {"turn_chars": -1}, {"cancels": 1.5}, {"tool_gap_s": -1.0}]
)
def test_values_without_sense_are_refused_by_their_flag(values: dict[str, float]) -> None:
    flag = "--" + next(iter(values)).replace("_", "-")
    with pytest.raises(ValueError, match=flag):
        TraceConfig(**values)  # type: ignore[arg-type]  # wrong values are the point


def test_a_url_must_be_one() -> None:
    with pytest.raises(ValueError, match="--url"):
        BenchConfig(url="127.0.0.1:7777")
