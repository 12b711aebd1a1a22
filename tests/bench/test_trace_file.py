"""Files of recorded sessions, good ones and odd ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from pensieve.bench.recorded_trace import ReplayRules, make_recorded_trace
from pensieve.bench.trace_file import RecordedCall, RecordedSession, TraceFileError, read_trace_file

OURS = Path(__file__).parents[2] / "bench" / "micro" / "agent_trace.jsonl"

CALL = {"t": 0, "type": "s", "in": 100, "out": 5, "hash_ids": [1, 2]}
ROW = {"session_id": "a", "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}


def written(folder: Path, *lines: Any) -> Path:
    """A file with these lines: objects as JSON, texts as they are."""
    path = folder / "trace.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def session(*requests: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "x", "block_size": 64, "requests": list(requests)} | fields


def test_rows_of_a_session_are_its_requests(tmp_path: Path) -> None:
    rows = [
        ROW | {"timestamp": 2000},
        ROW | {"session_id": "b", "hash_ids": None},
        ROW | {"input_length": 40, "hash_ids": [9], "delay": 1500.5},
        {"input_length": 7, "output_length": 0, "timestamp": 9000},
    ]
    first, second, third = read_trace_file(written(tmp_path, *rows))
    assert first.start_s == 2.0
    assert first.calls == (RecordedCall(600, 5, (1, 2)), RecordedCall(40, 5, (9,), 1.5005))
    assert (second.calls[0].blocks, third.start_s, third.calls[0].output_tokens) == ((), 9.0, 0)


def test_a_whole_session_waits_for_its_subagents(tmp_path: Path) -> None:
    subagent = {"t": 1, "type": "subagent", "agent_id": "s", "requests": [CALL, CALL | {"t": 4}]}
    requests = [CALL | {"t": 3, "api_time": 2}, CALL | {"t": 9}, subagent, CALL | {"t": 99}, subagent]
    (found,) = read_trace_file(written(tmp_path, "", session(*requests, totals={})))
    assert [(call.gap_s, len(call.subagents)) for call in found.calls] == [(0.0, 0), (4.0, 0), (0.0, 1)]
    assert [call.gap_s for call in found.calls[2].subagents[0]] == [0.0, 4.0]
    assert (len(found.left_behind), found.start_s, found.has_whole_prompts) == (1, 3.0, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[" * 100_000, "line 2: no JSON"),
        ("7", "line 2: the line is no JSON object"),
        ({"text_input": "hello"}, "line 2: neither input_length nor requests"),
        (ROW | {"input_length": 0}, "line 2: input_length must be a whole number from 1"),
        (ROW | {"input_length": True}, "line 2: input_length must be a whole number"),
        (ROW | {"output_length": None}, "line 2: output_length is missing"),
        (ROW | {"delay": -1}, "line 2: delay must be a number of at least 0, not -1"),
        (ROW | {"delay": float("nan")}, "line 2: delay must be a number"),
        (ROW | {"session_id": 3}, "line 2: session_id must be a text, not 3"),
        (ROW | {"hash_ids": "ab"}, "line 2: hash_ids must be a list of whole numbers"),
        (ROW | {"hash_ids": [1, 2, 3]}, "line 2: 3 hash_ids, but 600 tokens have 2 blocks of 512"),
        (ROW | {"session_id": "z", "block_size": 64}, "line 2: block_size is 64, and 512 before"),
        (session(), "line 2: no request of the session's own"),
        (session(CALL, block_size=None), "line 2: block_size is missing"),
        (session(CALL, 5), "line 2: request 2 is no JSON object"),
        (session(CALL | {"in": "many"}), "line 2: request 1: in must be a whole number from 1 to"),
        (session(CALL | {"type": "q"}), "line 2: 'q' is no known type of a request"),
        (session({"type": "subagent", "requests": [CALL | {"out": -1}]}), "request 1: request 1: out must"),
    ],
)
def test_an_odd_line_is_named_with_what_is_wrong(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(TraceFileError, match=message):
        read_trace_file(written(tmp_path, ROW | {"session_id": "z"}, line))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    empty, binary = written(tmp_path, ""), tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (empty, "has no requests"),
        (binary, "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(TraceFileError, match=f"{path.name}.*{message}"):
            read_trace_file(path)


def test_prompts_share_the_texts_of_the_blocks_that_they_shared() -> None:
    calls = (
        RecordedCall(130, 10, (1, 2, 3)),
        RecordedCall(200, 10, (1, 2, 4, 5), 99.0),
        RecordedCall(100, 10, (1, 9)),
    )
    sessions = [RecordedSession(start_s, calls, 64, "", True) for start_s in (50.0, 1000.0)]
    rules = ReplayRules(token_chars=2.0, gap_cap_s=10.0)
    first, second = make_recorded_trace(sessions, rules).sessions
    assert (first.start_s, second.start_s) == (0.0, 10.0)
    opening, next_turn, compacted = first.turns
    assert [len(turn.text) for turn in first.turns] == [260, 120, 200], "the answer's tokens are the server's"
    assert (opening.restarts, next_turn.restarts, compacted.restarts) == (False, False, True)
    assert (next_turn.gap_s, next_turn.output_tokens) == (10.0, 10)
    assert compacted.text[:128] == opening.text[:128] == second.turns[0].text[:128]
    assert compacted.text[128:140] != opening.text[128:140]


def test_blocks_of_other_scopes_are_others_and_lengths_scale() -> None:
    calls = (RecordedCall(100, 10, (1, 2)),)
    sessions = [RecordedSession(0.0, calls, 64, scope, True) for scope in ("a", "b")]
    first, second = make_recorded_trace(sessions, ReplayRules(2.0, scale=0.5)).sessions
    assert first.turns[0].text[:60] != second.turns[0].text[:60]
    assert (len(first.turns[0].text), first.turns[0].output_tokens) == (100, 5)


def test_our_own_trace_has_sessions_that_share_a_head_and_start_subagents() -> None:
    trace = make_recorded_trace(read_trace_file(OURS), ReplayRules(3.0))
    turns = [turn for plan in trace.sessions for turn in plan.turns]
    assert len(trace.sessions) == 4
    assert sum(len(turn.awaited) for turn in turns) >= 1
    assert len({plan.turns[0].text[:4000] for plan in trace.sessions}) == 1
    assert max(turn.gap_s for turn in turns) == 10.0
