"""Scripted sessions, the real scheduler that serves them, and a clock of their own; no model runs."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ...cache.blocks import BLOCK_SIZE
from ...cache.tree_nodes import Owner
from ...engine.step import SamplingParams, StepPlan, StepResult, StepTime
from ...scheduler.config import SchedulerConfig
from ...scheduler.origin import Origin, RequestClass
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request, Sequence
from ...scheduler.sessions import Sessions
from .agent_scripts import AgentScript, ScriptedTurn, SessionScript
from .best_eviction import ServedRequest

MAX_CONTEXT = 100_000
SCALE = 1 / 8
"""Of all lengths: a run then takes seconds."""

STEP_TOKENS = 512
STEP_S, TOKENS_PER_S = 0.05, 6000.0 * SCALE
PLENTY = 20_000_000
"""Tokens of a memory that evicts nothing."""

SUMMARY, INSTRUCTION = 75, 50
"""Tokens of a summary, and of the instruction to write one."""

STATE_TOKENS = 512
"""Tokens of KV beside each state, where the model has states."""

PASSER_BY = Owner(is_passing=True)
"""Who looks, and is no use of what is looked at."""

Told = Literal["hints", "ids", "none"]


class PlainLru(Sessions):
    """Knows no sessions, so that all blocks are ranked by their last use alone."""

    def begin(self, sequence: Sequence) -> None:
        """Do nothing."""

    def end(self, sequence: Sequence, position: object) -> None:
        """Do nothing."""


@dataclass
class PlayedAgent:
    """An agent at work."""

    script: AgentScript
    session: str
    name: str
    history: list[int]
    returns: Callable[[], None] | None = None  # who waits for it
    turn: int = 0


@dataclass
class FleetMemory:
    """Which memory a fleet has, and what it tells."""

    num_tokens: int = PLENTY
    told: Told = "hints"
    is_lru: bool = False
    has_states: bool = False

    def scheduler(self) -> Scheduler:
        """Make a scheduler with this memory."""
        num_states = max(64, self.num_tokens // STATE_TOKENS) if self.has_states else 0
        config = SchedulerConfig(16, STEP_TOKENS)
        scheduler = Scheduler(config, self.num_tokens // BLOCK_SIZE, MAX_CONTEXT, num_states)
        if self.is_lru:
            scheduler.sessions = PlainLru(scheduler.kv_cache)
        return scheduler


@dataclass
class SimulatedSessions:
    """Sessions and the scheduler that serves them."""

    memory: FleetMemory
    scheduler: Scheduler = field(init=False)
    now_s: float = 0.0
    num_prompt: int = 0
    num_found: int = 0
    num_requests: int = 0
    served: list[ServedRequest] = field(default_factory=list)
    num_evicted: int = 0  # blocks that agents found evicted when they came back
    num_with_room: int = 0  # of these, such that as many blocks were free then, so needed by nobody
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _heads: dict[str, list[int]] = field(default_factory=dict)
    _ends: dict[Sequence, Callable[[Sequence], None]] = field(default_factory=dict)
    _sent_s: dict[Sequence, float] = field(default_factory=dict)
    _num_tokens: int = 0
    _num_events: int = 0

    def __post_init__(self) -> None:
        self.scheduler = self.memory.scheduler()

    def play(self, sessions: Iterable[SessionScript]) -> float:
        """Serve the sessions to their end; return the share of prompt tokens that was found."""
        for number, session in enumerate(sessions):
            history = [
                *self._head(session.main.head, session.main.head_tokens),
                *self._head(session.main.folder, session.main.folder_tokens),
            ]
            agent = PlayedAgent(session.main, f"session {number}", "", history)
            self._at(session.start_s, lambda agent=agent: self._ask(agent))  # type: ignore[misc]
        while self._events or self.scheduler.has_work:
            if not self.scheduler.has_work:
                self.now_s = max(self.now_s, self._events[0][0])
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            self._step()
        return self.num_found / self.num_prompt

    def _step(self) -> None:
        self.scheduler.sessions.tell_time(self.now_s)
        plan = self.scheduler.schedule()
        if plan is None:
            return
        elapsed_s = STEP_S + sum(len(chunk.tokens) for chunk in plan.prefill) / TOKENS_PER_S
        self.now_s += elapsed_s
        self.scheduler.sessions.tell_time(self.now_s)
        self._take(plan, elapsed_s)

    def _take(self, plan: StepPlan, elapsed_s: float) -> None:
        tokens = {row.seq_id: self._new(1)[0] for row in plan.decode}
        self.scheduler.take_time(StepTime(plan.step_id, elapsed_s))
        for progress in self.scheduler.update(StepResult(plan.step_id, tokens)):
            sequence = progress.sequence
            if sequence.finish_reason is not None:
                self.num_prompt += sequence.num_prompt_tokens
                self.num_found += sequence.num_cached_tokens or 0
                sent_s, num_prompt = self._sent_s.pop(sequence), sequence.num_prompt_tokens
                self.served.append(ServedRequest(sent_s, self.now_s, num_prompt, list(sequence.tokens)))
                self._ends.pop(sequence)(sequence)

    def _at(self, when_s: float, event: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (when_s, self._num_events, event))

    def _new(self, count: int) -> list[int]:
        self._num_tokens += count
        return list(range(self._num_tokens - count, self._num_tokens))

    def _head(self, name: str, count: int) -> list[int]:
        return self._heads.setdefault(name, self._new(count))

    def _send(
        self,
        agent: PlayedAgent,
        prompt: list[int],
        answer: int,
        kind: RequestClass,
        ends: Callable[[Sequence], None],
    ) -> None:
        origin = Origin(session=agent.session, agent=agent.name, request_class=kind)
        if self.memory.told == "ids":
            origin = Origin(session=agent.session, agent=agent.name)
        elif self.memory.told == "none":
            origin = Origin()
        marks: tuple[int, ...] = (
            agent.script.head_tokens,
            agent.script.head_tokens + agent.script.folder_tokens,
        )
        marks = (*marks, len(prompt) - 1)
        request = Request(prompt, SamplingParams(), answer, origin=origin, checkpoints=marks)
        self.num_requests += 1
        sequence = self.scheduler.add(request)
        self._ends[sequence], self._sent_s[sequence] = ends, self.now_s

    def _ask(self, agent: PlayedAgent) -> None:
        turn = agent.script.turns[agent.turn]
        prompt = agent.history + self._new(turn.new)
        if agent.turn:
            self._look_for_room(agent.history)
        kind: RequestClass = "subagent" if agent.name else "main"
        self._send(agent, prompt, turn.answer, kind, lambda sequence: self._answered(agent, turn, sequence))

    def _look_for_room(self, history: list[int]) -> None:
        """Count what is evicted of a history, and how much of it could come back and evict nothing itself."""
        kv_cache = self.scheduler.kv_cache
        num_there = kv_cache.tree.match(history, None, PASSER_BY).num_blocks
        num_evicted = (len(history) - 1) // BLOCK_SIZE - num_there
        self.num_evicted += num_evicted
        self.num_with_room += min(num_evicted, kv_cache.allocator.num_free)

    def _answered(self, agent: PlayedAgent, turn: ScriptedTurn, sequence: Sequence) -> None:
        self.scheduler.sessions.answered(sequence, [turn.call] if turn.call else [])
        agent.history = sequence.tokens
        agent.turn += 1
        for side in turn.side:
            before = agent.history if side < 0 else self._head("side", 32)
            prompt = before + self._new(abs(side))
            self._send(agent, prompt, 2, "auxiliary", lambda one: self.scheduler.sessions.answered(one, []))
        if turn.agent is not None:
            self._start(agent, turn.agent, turn.gap_s)
        elif agent.turn < len(agent.script.turns):
            self._later(agent, turn.gap_s)
        elif agent.returns is not None:
            agent.returns()

    def _start(self, parent: PlayedAgent, script: AgentScript, gap_s: float) -> None:
        name = f"{parent.name} {parent.turn}"
        history = list(self._head(script.head, script.head_tokens))
        child = PlayedAgent(script, parent.session, name, history, lambda: self._later(parent, gap_s))
        self._at(self.now_s + gap_s, lambda: self._ask(child))

    def _later(self, agent: PlayedAgent, gap_s: float) -> None:
        limit = agent.script.compacts_at
        if limit and len(agent.history) > limit:
            self._at(self.now_s + gap_s, lambda: self._compact(agent))
        else:
            self._at(self.now_s + gap_s, lambda: self._ask(agent))

    def _compact(self, agent: PlayedAgent) -> None:
        def replace(sequence: Sequence) -> None:
            self.scheduler.sessions.answered(sequence, [])
            script = agent.script
            agent.history = sequence.tokens[: script.head_tokens + script.folder_tokens] + self._new(SUMMARY)
            self._ask(agent)

        self._send(agent, agent.history + self._new(INSTRUCTION), 6, "compaction", replace)
