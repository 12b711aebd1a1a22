"""Plays a trace against a server, all sessions at once, and records when each piece of each answer came."""

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from .config import BenchConfig
from .dialects import Api, ChatMessage, TokenUsage, make_api
from .trace import SessionPlan, Trace, Turn
from .wire import HttpRequest, RequestFailed, stream_events

Outcome = Literal["done", "cancelled", "error"]

AGENT_HEADER, CLASS_HEADER = "x-claude-code-agent-id", "x-claude-code-request-class"

INTERRUPTED = "(interrupted)"  # stands in the history for an answer that never began


@dataclass(slots=True)
class Record:
    """One request as its client saw it. Times are seconds; `start_s` counts from the fleet's start."""

    session: int
    turn: int  # from 1, within its conversation
    agent: Literal["main", "subagent"]
    start_s: float
    previous_prompt: int | None  # prompt tokens of the conversation's previous request
    end_s: float = 0.0  # this time and those of the pieces count from sending the request
    delta_s: list[float] = field(default_factory=list)  # when each piece of text came
    usage: TokenUsage = field(default_factory=TokenUsage)
    outcome: Outcome = "error"
    error: str | None = None

    @property
    def first_s(self) -> float | None:
        """Time to the first token; None when none came."""
        return self.delta_s[0] if self.delta_s else None

    @property
    def turn_s(self) -> float | None:
        """Time to the last token of an answer that came whole; None for any other request."""
        return self.delta_s[-1] if self.delta_s and self.outcome == "done" else None

    @property
    def num_output(self) -> int:
        """Output tokens as the server counts them, or else pieces of text, as after a cancel."""
        return self.usage.output if self.usage.output and self.outcome == "done" else len(self.delta_s)


@dataclass(frozen=True, slots=True)
class PlayedTrace:
    """A played trace: a record of each request, in the order of their starts."""

    records: list[Record]
    wall_s: float
    session_ids: tuple[str, ...] = ()  # as the server was told them, in the order of the sessions
    device_ms: tuple[float, ...] = ()  # that the device computed for each session; empty where nobody tells


@dataclass(slots=True)
class _Conversation:
    """A history that grows with each turn. A subagent has a conversation of its own."""

    session: int
    agent: Literal["main", "subagent"]
    headers: dict[str, str]  # who asks, as Claude Code tells a server
    history: list[ChatMessage] = field(default_factory=list)
    num_turns: int = 0
    num_prompt_tokens: int | None = None


async def play(trace: Trace, config: BenchConfig, progress: Callable[[Record], None]) -> PlayedTrace:
    """Play all sessions to their end; call `progress` with the record of each request that has ended."""
    fleet = _Fleet(trace, config, progress)
    async with asyncio.TaskGroup() as group:
        for index, plan in enumerate(trace.sessions):
            group.create_task(fleet.session(index, plan))
    records = sorted(fleet.records, key=lambda record: record.start_s)
    wall_s = max(record.start_s + record.end_s for record in records)
    return PlayedTrace(records, wall_s, fleet.session_ids)


class _Fleet:
    """All sessions of one run."""

    def __init__(self, trace: Trace, config: BenchConfig, progress: Callable[[Record], None]) -> None:
        self.records: list[Record] = []
        self.session_ids = tuple(str(uuid.uuid4()) for _ in trace.sessions)
        self._trace = trace
        self._config = config
        self._progress = progress
        self._api: Api = make_api(config.protocol)
        self._start_s = time.perf_counter()

    async def session(self, index: int, plan: SessionPlan) -> None:
        """Play one session: its turns one after the other, its subagents beside or between them."""
        await asyncio.sleep(plan.start_s)
        headers = {"x-claude-code-session-id": self.session_ids[index], CLASS_HEADER: "main"}
        await self._agent(_Conversation(index, "main", headers), plan.turns)

    async def _agent(self, conversation: _Conversation, turns: tuple[Turn, ...]) -> None:
        async with asyncio.TaskGroup() as beside:
            for turn in turns:
                async with asyncio.TaskGroup() as awaited:
                    for agent in turn.awaited:
                        awaited.create_task(self._subagent(conversation, agent))
                await asyncio.sleep(turn.gap_s)
                for agent in turn.subagents:
                    beside.create_task(self._subagent(conversation, agent))
                await self._turn(conversation, turn)

    async def _subagent(self, parent: _Conversation, turns: tuple[Turn, ...]) -> None:
        headers = parent.headers | {AGENT_HEADER: uuid.uuid4().hex, CLASS_HEADER: "subagent"}
        if AGENT_HEADER in parent.headers:
            headers["x-claude-code-parent-agent-id"] = parent.headers[AGENT_HEADER]
        await self._agent(_Conversation(parent.session, "subagent", headers), turns)

    async def _turn(self, conversation: _Conversation, turn: Turn) -> None:
        if turn.restarts:
            conversation.history.clear()
            conversation.num_prompt_tokens = None
        conversation.history.append(ChatMessage("user", turn.text))
        conversation.num_turns += 1
        record = Record(
            conversation.session,
            conversation.num_turns,
            conversation.agent,
            time.perf_counter() - self._start_s,
            conversation.num_prompt_tokens,
        )
        answer = await self._request(record, self._call(conversation, turn), turn.cancel_after_s)
        # A template may refuse an empty answer, and a real client sends none.
        conversation.history.append(ChatMessage("assistant", answer or INTERRUPTED))
        conversation.num_prompt_tokens = record.usage.prompt or conversation.num_prompt_tokens
        self.records.append(record)
        self._progress(record)

    def _call(self, conversation: _Conversation, turn: Turn) -> HttpRequest:
        config = self._config
        body = self._api.body(self._trace, config.model, conversation.history)
        if turn.output_tokens is not None:
            body |= {"max_tokens": turn.output_tokens, "ignore_eos": True}
        headers = self._api.headers(config.api_key) | conversation.headers
        return HttpRequest(config.url.rstrip("/") + self._api.path, headers, body)

    async def _request(self, record: Record, call: HttpRequest, cancel_after_s: float | None) -> str:
        """Make one request and fill in its record, also when the request fails; return the text that came."""
        pieces = list[str]()
        sent_s = time.perf_counter()
        limit_s = self._config.timeout_s if cancel_after_s is None else cancel_after_s
        try:
            async with asyncio.timeout(limit_s):
                await self._read(call, record, pieces)
            record.outcome = "done"
        except TimeoutError:
            record.outcome = "error" if cancel_after_s is None else "cancelled"
            record.error = f"no end within {limit_s:g} s" if cancel_after_s is None else None
        except RequestFailed as failure:
            record.error = str(failure)
        record.end_s = time.perf_counter() - sent_s
        return "".join(pieces)

    async def _read(self, call: HttpRequest, record: Record, pieces: list[str]) -> None:
        sent_s = time.perf_counter()
        has_ended = False
        async with aclosing(stream_events(call)) as events:
            async for event in events:
                delta = self._api.read(event)
                record.usage = record.usage.updated(delta.usage)
                has_ended = has_ended or delta.is_end
                if delta.text:
                    record.delta_s.append(time.perf_counter() - sent_s)
                    pieces.append(delta.text)
        if not has_ended:
            raise RequestFailed("the stream ended without its last event")
