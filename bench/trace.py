"""Draws the requests of all sessions of a fleet, and their times, from one seed before any is sent.

A session is a Claude Code conversation: tools and system prompt that all sessions share, then turns that
append to one history. A subagent is a second conversation with the same tools and system prompt and a
briefing that all subagents of its session share; it runs beside its session. This module knows no API.
"""

import json
import random
from collections import abc
from dataclasses import dataclass, replace
from typing import Any

from .config import TraceConfig
from .filler_words import word, words


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: the text that it appends to the history, its time, and the subagents around it."""

    text: str
    gap_s: float  # from the answer before, while tools run
    cancel_after_s: float | None = None  # seconds after sending; None: the answer is read to its end
    subagents: "tuple[tuple[Turn, ...], ...]" = ()  # turns of each subagent that starts with this request
    awaited: "tuple[tuple[Turn, ...], ...]" = ()  # turns of each subagent that this request waits for
    output_tokens: int | None = None  # exactly so many, whatever the model would say; None: the trace's
    restarts: bool = False  # whether the history begins anew, as after a compaction


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """A session's start, seconds after the fleet's, and its turns."""

    start_s: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a request declares it."""

    name: str
    description: str

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the tool's input."""
        properties = {"path": {"type": "string"}, "text": {"type": "string"}}
        return {"type": "object", "properties": properties, "required": ["path"]}


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that a fleet sends."""

    tools: tuple[ToolSpec, ...]
    system: str
    sessions: tuple[SessionPlan, ...]
    output_tokens: int

    @property
    def num_requests(self) -> int:
        """Requests of all sessions and subagents."""
        return sum(count_requests(session.turns) for session in self.sessions)


def count_requests(turns: abc.Sequence[Turn]) -> int:
    """Return the number of requests of an agent's turns and of its subagents."""
    agents = [agent for turn in turns for agent in (*turn.subagents, *turn.awaited)]
    return len(turns) + sum(map(count_requests, agents))


def marked(trace: Trace, marker: str) -> Trace:
    """Return the trace with a marker before everything that it sends, so that no server has it cached."""
    tools = tuple(replace(tool, description=f"{marker} {tool.description}") for tool in trace.tools)
    return replace(trace, tools=tools, system=f"{marker} {trace.system}")


def make_trace(config: TraceConfig) -> Trace:
    """Draw a fleet. A session's requests do not depend on the number of sessions."""
    rng = random.Random(f"{config.seed} head")
    tools = make_tools(rng, config.tools, config.system_chars * 2 // 3)
    taken = sum(len(json.dumps([tool.name, tool.description, tool.schema])) for tool in tools)
    system = words(rng, max(0, config.system_chars - taken))
    sessions = tuple(_Drawer(config, index).session() for index in range(config.sessions))
    return Trace(tools, system, sessions, config.output_tokens)


def make_tools(rng: random.Random, count: int, length: int) -> tuple[ToolSpec, ...]:
    """Draw `count` tools of about `length` characters together."""
    return tuple(ToolSpec(f"{word(rng)}_{index}", words(rng, length // count)) for index in range(count))


class _Drawer:
    """Draws one session's turns and those of its subagents."""

    def __init__(self, config: TraceConfig, index: int) -> None:
        self._config = config
        self._index = index
        self._rng = random.Random(f"{config.seed} session {index}")

    def session(self) -> SessionPlan:
        config = self._config
        briefing = words(self._rng, config.turn_chars // 2)
        turns = [self._turn(briefing, is_first=number == 0) for number in range(config.turns)]
        if self._index == 0:
            crowd = tuple(self._subagent(briefing) for _ in range(config.crowd))
            turns[0] = replace(turns[0], subagents=turns[0].subagents + crowd)
        return SessionPlan(config.ramp_s * self._index / config.sessions, tuple(turns))

    def _turn(self, briefing: str, is_first: bool) -> Turn:
        text = words(self._rng, self._config.turn_chars)
        starts_subagent = self._rng.random() < self._config.subagents
        subagents = (self._subagent(briefing),) if starts_subagent else ()
        return Turn(text, 0.0 if is_first else self._gap_s(), self._cancel_after_s(), subagents)

    def _subagent(self, briefing: str) -> tuple[Turn, ...]:
        size = self._config.turn_chars
        texts = [briefing + words(self._rng, size - len(briefing))]
        texts += [words(self._rng, size) for _ in range(self._config.subagent_turns - 1)]
        gaps = [0.0] + [self._gap_s() for _ in texts[1:]]
        return tuple(
            Turn(text, gap_s, self._cancel_after_s()) for text, gap_s in zip(texts, gaps, strict=True)
        )

    def _gap_s(self) -> float:
        # Drawn also where it is scaled to nothing, so that the texts stay the same.
        return self._config.tool_gap_s * self._rng.lognormvariate(0.0, self._config.tool_gap_sigma)

    def _cancel_after_s(self) -> float | None:
        is_cancelled = self._rng.random() < self._config.cancels
        after_s = self._rng.uniform(0.0, self._config.cancel_s)
        return after_s if is_cancelled else None
