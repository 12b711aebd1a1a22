"""Scripts of Claude Code sessions in tokens and seconds: drawn from a seed, or read from a file.

A session's main agent takes turns of its user's. In each it calls tools, whose results come after some
time, and subagents, for which it waits. Side requests run beside it: some with a prompt of their own, some
with the whole conversation. A conversation that has grown too long is replaced by a summary. Lengths and
gaps are made up from what the real client was seen to do; a file has one session a line, as JSON. All
lengths can be scaled, since only their proportions matter to a cache whose blocks are short beside them.
"""

import json
import math
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TOOLS = {  # median seconds, spread of their logarithm, median tokens of the result, share of the calls
    "Read": (0.2, 0.6, 900, 30),
    "Grep": (0.4, 0.6, 500, 15),
    "Edit": (0.3, 0.6, 250, 20),
    "Bash": (4.0, 1.6, 350, 30),
    "WebFetch": (6.0, 0.8, 1500, 5),
}
KINDS = {"general-purpose": 6000, "Explore": 4000}  # of subagents, with the tokens of their heads
MOST_GAP_S, MOST_RESULT = 1800.0, 8000


@dataclass(frozen=True)
class ScriptedTurn:
    """One request, and what happens until the next one.

    new: tokens behind the conversation so far. call: the tool that the answer calls; empty where it ends the
    turn. gap_s: until the agent's next request. agent: a subagent that runs meanwhile, and is waited for.
    side: prompts of side requests that are sent with it: negative numbers are tokens behind the
    conversation, positive ones those of a prompt of its own.
    """

    new: int
    answer: int
    call: str = ""
    gap_s: float = 0.0
    agent: "AgentScript | None" = None
    side: tuple[int, ...] = ()


@dataclass(frozen=True)
class AgentScript:
    """An agent's head (a name, for all who share it, and its length) and turns. compacts_at: tokens."""

    head: str
    head_tokens: int
    turns: tuple[ScriptedTurn, ...]
    folder: str = ""
    folder_tokens: int = 0
    compacts_at: int = 0


@dataclass(frozen=True)
class SessionScript:
    """A session: when it starts, in seconds, and its main agent."""

    start_s: float
    main: AgentScript


@dataclass
class ScriptDrawer:
    """Draws sessions."""

    rng: random.Random
    scale: float = 1.0  # of lengths
    tools: tuple[str, ...] = field(default=tuple(TOOLS))

    def session(self, index: int, hurry: float) -> SessionScript:
        """Draw a session. hurry: seconds over which the sessions start, and work."""
        turns: list[ScriptedTurn] = []
        for _ in range(self.rng.randint(2, 6)):
            turns += self._user_turn()
        main = AgentScript(
            head="main",
            head_tokens=self._scaled(12_000),
            turns=tuple(turns),
            folder=f"folder {index % 8}",
            folder_tokens=self._scaled(1500),
            compacts_at=self._scaled(60_000),
        )
        return SessionScript(self.rng.uniform(0, hurry), main)

    def _user_turn(self) -> list[ScriptedTurn]:
        forks = (-self._scaled(120),) if self.rng.random() < 0.4 else ()
        side = (self._scaled(300), *forks)
        turns, new = [], self._around(150, 1.0)
        for number in range(min(30, 1 + round(self.rng.lognormvariate(math.log(5), 0.8)))):
            agent = self._subagent() if self.rng.random() < 0.06 else None
            turns.append(self._tool_turn(new, agent, side if number == 0 else ()))
            new = turns[-1].answer if agent else self._around(TOOLS[turns[-1].call][2], 1.1)
        gap_s = min(MOST_GAP_S, self.rng.lognormvariate(math.log(180), 1.3))
        return [*turns, self._last_turn(new, gap_s)]

    def _tool_turn(self, new: int, agent: AgentScript | None, side: tuple[int, ...] = ()) -> ScriptedTurn:
        weights = [TOOLS[tool][3] for tool in self.tools]
        name = "Agent" if agent else self.rng.choices(self.tools, weights)[0]
        median_s, sigma = (0.2, 0.5) if agent else TOOLS[name][:2]
        gap_s = min(MOST_GAP_S, self.rng.lognormvariate(math.log(median_s), sigma))
        return ScriptedTurn(new, self._scaled(self.rng.randint(16, 64)), name, round(gap_s, 2), agent, side)

    def _last_turn(self, new: int, gap_s: float) -> ScriptedTurn:
        return ScriptedTurn(new, self._scaled(self.rng.randint(16, 64)), gap_s=gap_s)

    def _subagent(self) -> AgentScript:
        kind = self.rng.choice(list(KINDS))
        turns, new = [], self._around(600, 0.7)
        for _ in range(self.rng.randint(2, 12)):
            turns.append(self._tool_turn(new, None))
            new = self._around(TOOLS[turns[-1].call][2], 1.1)
        return AgentScript(
            kind,
            self._scaled(KINDS[kind]),
            (*turns, self._last_turn(new, 0.0)),
        )

    def _around(self, median: float, sigma: float) -> int:
        return self._scaled(min(MOST_RESULT, round(self.rng.lognormvariate(math.log(median), sigma))))

    def _scaled(self, count: int) -> int:
        return max(2, round(count * self.scale))


def draw_sessions(seed: int, count: int, scale: float = 1.0, hurry: float = 900.0) -> list[SessionScript]:
    """Draw `count` sessions, which start within `hurry` seconds."""
    drawer = ScriptDrawer(random.Random(f"sessions {seed}"), scale)
    return [drawer.session(index, hurry) for index in range(count)]


def write_sessions(path: Path, sessions: Iterable[SessionScript]) -> None:
    """Write sessions to a file. Fields of their default value are left out."""
    lines = [json.dumps(_short(asdict(session)), separators=(",", ":")) for session in sessions]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_sessions(path: Path) -> list[SessionScript]:
    """Read the sessions of a file. Raises OSError, ValueError or TypeError."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [SessionScript(line.get("start_s", 0.0), _agent(line["main"])) for line in map(json.loads, lines)]


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items() if item}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


def _agent(fields: dict[str, Any]) -> AgentScript:
    return AgentScript(**{**fields, "turns": tuple(_turn(turn) for turn in fields["turns"])})


def _turn(fields: dict[str, Any]) -> ScriptedTurn:
    agent, side = fields.get("agent"), tuple(fields.get("side", ()))
    return ScriptedTurn(**{**fields, "agent": _agent(agent) if agent else None, "side": side})
