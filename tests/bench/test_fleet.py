"""A fleet against a scripted server."""

import asyncio
import re

from pensieve.bench.config import BenchConfig, TraceConfig
from pensieve.bench.fleet import INTERRUPTED, PlayedTrace, Record, play
from pensieve.bench.trace import SessionPlan, Trace, Turn, make_trace

from .conftest import ScriptedServer, chunked, messages_answer, scripted, sse

SMALL = {"sessions": 2, "turns": 3, "system_chars": 100, "tools": 0, "turn_chars": 30, "output_tokens": 2}


def fleet(server: ScriptedServer, timeout_s: float = 10.0, **trace: float) -> PlayedTrace:
    """Play a small trace."""

    async def run() -> PlayedTrace:
        async with scripted(server):
            config = BenchConfig(url=server.url, timeout_s=timeout_s)
            return await play(make_trace(TraceConfig(**(SMALL | trace))), config, ended.append)  # type: ignore[arg-type]

    ended: list[Record] = []
    played = asyncio.run(run())
    assert sorted(map(id, ended)) == sorted(map(id, played.records))
    return played


def test_histories_grow_by_what_the_server_answered() -> None:
    server = ScriptedServer(lambda body: messages_answer([f"answer {len(body['messages'])}", " end"]))
    run = fleet(server, sessions=1)
    assert [len(body["messages"]) for body in server.bodies] == [1, 3, 5]
    last = [message["content"] for message in server.bodies[-1]["messages"]]
    assert (last[1], last[3]) == ("answer 1 end", "answer 3 end")
    assert [body["messages"][:1] for body in server.bodies[1:]] == [server.bodies[0]["messages"]] * 2
    assert [(record.turn, record.outcome, record.num_output) for record in run.records] == [
        (turn, "done", 2) for turn in (1, 2, 3)
    ]


def test_sessions_share_their_head() -> None:
    server = ScriptedServer(lambda _: messages_answer(["x"]))
    fleet(server)
    assert len({body["system"][0]["text"] for body in server.bodies}) == 1
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 2


def test_usage_is_noted_with_what_the_conversation_sent_before() -> None:
    server = ScriptedServer(lambda body: messages_answer(["x"], 100 * len(body["messages"]), 50))
    run = fleet(server, sessions=1)
    assert [(record.usage.prompt, record.previous_prompt) for record in run.records] == [
        (100, None),
        (300, 100),
        (500, 300),
    ]
    assert run.records[0].usage.cached == 50


def test_times_count_from_sending() -> None:
    server = ScriptedServer(lambda _: messages_answer(["a", "b"]), delay_s=0.02)
    run = fleet(server, sessions=1, turns=1)
    (record,) = run.records
    assert record.first_s is not None
    assert 0.04 <= record.first_s < record.delta_s[1] < record.end_s <= run.wall_s


def test_a_user_drops_requests_and_the_session_goes_on() -> None:
    server = ScriptedServer(lambda _: messages_answer(["x"] * 500), delay_s=0.02)
    run = fleet(server, cancels=1.0, cancel_s=0.3)
    assert [record.outcome for record in run.records] == ["cancelled"] * 6
    assert 0 < len(server.bodies) <= 6, "some may be dropped before they are sent"
    assert all(len(record.delta_s) < 400 for record in run.records)


def test_an_answer_that_never_began_is_not_sent_back_empty() -> None:
    refusal = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
    server = ScriptedServer(lambda _: [refusal])
    run = fleet(server, sessions=1)
    assert server.bodies[1]["messages"][1]["content"] == INTERRUPTED
    assert [(record.outcome, record.error) for record in run.records] == [("error", "status 500: ")] * 3


def test_subagents_have_histories_of_their_own() -> None:
    server = ScriptedServer(lambda _: messages_answer(["x"]))
    run = fleet(server, sessions=1, turns=2, subagents=1.0, subagent_turns=2)
    assert sorted((record.agent, record.turn) for record in run.records) == [
        ("main", 1),
        ("main", 2),
        *[("subagent", turn) for turn in (1, 1, 2, 2)],
    ]
    assert sorted(len(body["messages"]) for body in server.bodies) == [1, 1, 1, 3, 3, 3]


def test_a_server_is_told_who_asks_as_claude_code_tells_it() -> None:
    server = ScriptedServer(lambda _: messages_answer(["x"]))
    run = fleet(server, turns=1, subagents=1.0, subagent_turns=1)
    named = [re.findall(r"x-claude-code-(\S+): (\S+)", head) for head in server.heads]
    assert len(named) == 4
    assert {dict(fields)["session-id"] for fields in named} == set(run.session_ids)
    assert (
        sorted(fields[1][1] for fields in map(sorted, named) if "agent-id" in dict(fields))
        == ["subagent"] * 2
    )


def test_a_request_waits_for_subagents_that_it_needs_and_a_new_history_begins() -> None:
    server = ScriptedServer(lambda body: messages_answer([body["messages"][0]["content"]]))
    agents = ((Turn("one", 0.0),), (Turn("two", 0.0),))
    turns = (Turn("first", 0.0), Turn("last", 0.0, awaited=agents, output_tokens=7, restarts=True))

    async def run() -> PlayedTrace:
        async with scripted(server):
            trace = Trace((), "", (SessionPlan(0.0, turns),), 2)
            assert trace.num_requests == 4
            return await play(trace, BenchConfig(url=server.url), lambda _: None)

    records = asyncio.run(run()).records
    assert [(record.agent, record.turn) for record in records] == [
        ("main", 1),
        ("subagent", 1),
        ("subagent", 1),
        ("main", 2),
    ]
    assert records[3].start_s >= max(record.start_s + record.end_s for record in records[:3])
    last = server.bodies[3]
    assert ([message["content"] for message in last["messages"]], last["max_tokens"]) == (["last"], 7)
    assert (last["ignore_eos"], "system" in last, "ignore_eos" in server.bodies[0]) == (True, False, False)


def test_a_stream_without_its_end_is_an_error() -> None:
    server = ScriptedServer(lambda _: chunked(sse({"type": "ping"})))
    run = fleet(server, sessions=1, turns=1)
    assert run.records[0].error == "the stream ended without its last event"


def test_a_request_that_takes_too_long_is_an_error() -> None:
    server = ScriptedServer(lambda _: messages_answer(["x"] * 500), delay_s=0.02)
    run = fleet(server, timeout_s=0.1, sessions=1, turns=1)
    assert (run.records[0].outcome, run.records[0].error) == ("error", "no end within 0.1 s")
