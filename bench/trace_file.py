"""Reads a file of recorded agent sessions: requests with token counts, block hashes and idle times.

Each line is a JSON object, in one of the two forms that AIPerf replays (github.com/ai-dynamo/aiperf, its
guides to agentic code and to Weka traces):

    {"session_id": "a", "input_length": 900, "output_length": 40, "hash_ids": [1, 2], "timestamp": 0}
    {"session_id": "a", "input_length": 120, "output_length": 60, "hash_ids": [7], "delay": 1500}

is a request a line: `input_length` and `hash_ids` are of what the request appends, times are milliseconds.

    {"id": "b", "block_size": 64, "hash_id_scope": "local", "requests": [
        {"t": 0, "type": "s", "in": 900, "out": 40, "hash_ids": [1, 2, ...]},
        {"t": 2, "type": "subagent", "agent_id": "x", "requests": [...]},
        {"t": 9, "type": "s", "in": 990, "out": 60, "hash_ids": [1, 2, ..., 15], "think_time": 1.5}]}

is a session a line: `in` and `hash_ids` are of whole prompts, times are seconds. Other fields are left alone.
"""

import json
import math
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import PensieveError

MOONCAKE_BLOCK = 512
"""Tokens of a block where a line does not say."""

MOST_TOKENS = 10_000_000
"""Of a prompt or an answer: a larger number is a mistake."""


class TraceFileError(PensieveError):
    """The file cannot be read, or is no trace. The message names the line."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One request.

    input_tokens, blocks: length and block hashes of the whole prompt, or of what the request appends to the
    history. gap_s: idle time before it. subagents: their requests, all answered before this one is sent.
    """

    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    gap_s: float = 0.0
    subagents: "tuple[tuple[RecordedCall, ...], ...]" = ()


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """A session's requests, and subagents that nothing waits for.

    start_s: seconds, from any beginning that all sessions share. block_tokens: length of a block.
    scope: sessions of one scope share blocks of the same hash. has_whole_prompts: see RecordedCall.
    """

    start_s: float
    calls: tuple[RecordedCall, ...]
    block_tokens: int = MOONCAKE_BLOCK
    scope: str = ""
    has_whole_prompts: bool = False
    left_behind: tuple[tuple[RecordedCall, ...], ...] = ()


def read_trace_file(path: Path) -> list[RecordedSession]:
    """Read all sessions of a file, in the order of their first lines. Raises TraceFileError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceFileError(f"{path} cannot be read: {error}") from error
    sessions: dict[str, RecordedSession | _Rows] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(_Fields(_parse(line)), number, sessions)
        except _BadLine as error:
            raise TraceFileError(f"{path}, line {number}: {error}") from error
    if not sessions:
        raise TraceFileError(f"{path} has no requests")
    return [session.session() if isinstance(session, _Rows) else session for session in sessions.values()]


class _BadLine(Exception):
    """What is wrong with a line."""


class _Fields:
    """An object's fields, each checked when it is asked for. place: begins the messages of errors."""

    def __init__(self, values: Any, place: str = "") -> None:
        if not isinstance(values, dict):
            raise _BadLine(f"{place or 'the line'} is no JSON object")
        self.values = values
        self._place = f"{place}: " if place else ""

    def number(self, name: str, default: float | None = None) -> float | None:
        """Return a number that is not negative."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
            raise _BadLine(f"{self._place}{name} must be a number of at least 0, not {_shown(value)}")
        return float(value)

    def count(self, name: str, least: int = 1, default: int | None = None) -> int:
        """Return a whole number of tokens, at least `least`."""
        value = self.values.get(name, default)
        if value is None:
            raise _BadLine(f"{self._place}{name} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_TOKENS:
            raise _BadLine(
                f"{self._place}{name} must be a whole number from {least} to {MOST_TOKENS}, "
                f"not {_shown(value)}"
            )
        return value

    def blocks(self, tokens: int, block_tokens: int) -> tuple[int, ...]:
        """Return the block hashes of `tokens` tokens."""
        value = self.values.get("hash_ids") or []
        if not isinstance(value, list) or any(type(block) is not int for block in value):
            raise _BadLine(f"{self._place}hash_ids must be a list of whole numbers")
        if len(value) > (room := math.ceil(tokens / block_tokens)):
            raise _BadLine(
                f"{self._place}{len(value)} hash_ids, but {tokens} tokens have {room} blocks of "
                f"{block_tokens}"
            )
        return tuple(value)

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise _BadLine(f"{self._place}{name} must be a text, not {_shown(value)}")
        return value if value is not None else default

    def requests(self) -> "list[_Fields]":
        """Return the objects of `requests`."""
        value = self.values.get("requests")
        if not isinstance(value, list):
            raise _BadLine(f"{self._place}requests must be a list")
        return [_Fields(item, f"{self._place}request {number}") for number, item in enumerate(value, 1)]


class _Rows:
    """A session whose requests stand in lines of their own."""

    def __init__(self) -> None:
        self._calls: list[RecordedCall] = []
        self._start_s = self._last_s = 0.0
        self._block_tokens: int | None = None

    def add(self, fields: _Fields) -> None:
        """Append a line's request."""
        size = fields.count("block_size", default=self._block_tokens or MOONCAKE_BLOCK)
        if self._block_tokens not in (None, size):
            raise _BadLine(f"block_size is {size}, and {self._block_tokens} before in this session")
        self._block_tokens = size
        tokens = fields.count("input_length")
        start_s = fields.number("timestamp", self._last_s * 1000.0)
        assert start_s is not None  # it has a default
        start_s /= 1000.0
        if not self._calls:
            self._start_s = self._last_s = start_s
        delay_ms = fields.number("delay")
        gap_s = max(0.0, start_s - self._last_s) if delay_ms is None else delay_ms / 1000.0
        self._last_s = start_s
        self._calls.append(
            RecordedCall(tokens, fields.count("output_length", least=0), fields.blocks(tokens, size), gap_s)
        )

    def session(self) -> RecordedSession:
        """Return the session."""
        return RecordedSession(self._start_s, tuple(self._calls), self._block_tokens or MOONCAKE_BLOCK)


def _take(fields: _Fields, number: int, sessions: "dict[str, RecordedSession | _Rows]") -> None:
    """Add a line to the sessions."""
    if "requests" in fields.values:
        name = f"session {fields.text('id', str(number))}"
        if name in sessions:
            raise _BadLine(f"a second {name}")
        sessions[name] = _whole_session(fields, name)
    elif "input_length" in fields.values:
        rows = sessions.setdefault(f"rows {fields.text('session_id', f'line {number}')}", _Rows())
        assert isinstance(rows, _Rows)  # by its name
        rows.add(fields)
    else:
        raise _BadLine("neither input_length nor requests: no known form of a trace")


def _whole_session(fields: _Fields, name: str) -> RecordedSession:
    size = fields.count("block_size")
    scope = "" if fields.text("hash_id_scope", "local") == "global" else name
    requests = fields.requests()
    calls, left_behind = _calls(requests, size)
    if not calls:
        raise _BadLine("no request of the session's own")
    return RecordedSession(requests[0].number("t", 0.0) or 0.0, calls, size, scope, True, left_behind)


def _calls(
    requests: abc.Iterable[_Fields], size: int
) -> tuple[tuple[RecordedCall, ...], tuple[tuple[RecordedCall, ...], ...]]:
    """Return an agent's requests, and the subagents behind the last of them."""
    calls: list[RecordedCall] = []
    subagents: list[tuple[RecordedCall, ...]] = []
    idle_from_s: float | None = None
    for fields in requests:
        kind = fields.text("type", "n")
        if kind == "subagent":
            own, behind = _calls(fields.requests(), size)
            subagents += [agent for agent in (own, *behind) if agent]
            continue
        if kind not in ("n", "s"):
            raise _BadLine(f"{kind!r} is no known type of a request")
        start_s, tokens = fields.number("t", 0.0) or 0.0, fields.count("in")
        since_s = 0.0 if idle_from_s is None or subagents else max(0.0, start_s - idle_from_s)
        gap_s = 0.0 if subagents else fields.number("think_time", since_s) or 0.0
        output, blocks = fields.count("out", least=0), fields.blocks(tokens, size)
        calls.append(RecordedCall(tokens, output, blocks, gap_s, tuple(subagents)))
        subagents = []
        idle_from_s = start_s + (fields.number("api_time", 0.0) or 0.0)
    return tuple(calls), tuple(subagents)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLine(f"no JSON: {error}") from error


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
