"""Writes scripted sessions as a recorded trace, in the form that `pensieve bench --trace` reads.

    python -m pensieve.bench.micro.recorded_sessions bench/micro/agent_trace.jsonl

The sessions are drawn (`agent_scripts.py`), as nobody's prompts may stand in a repository. Their first
requests are kept, and the recorded answers come at once, so that idle times are those of tools and users.
"""

import argparse
import json
from collections import abc
from pathlib import Path
from typing import Any

from .agent_scripts import AgentScript, ScriptedTurn, SessionScript, draw_sessions

BLOCK_TOKENS = 64
SCALE = 1 / 8
"""Of all lengths."""


class TraceWriter:
    """Writes sessions as objects of a trace. Equal beginnings of prompts get equal hashes in all sessions."""

    def __init__(self, most_turns: int) -> None:
        self._most_turns = most_turns
        self._hashes: dict[tuple[object, ...], int] = {}
        self._num_agents = self._num_tokens = 0

    def session(self, script: SessionScript, number: int) -> dict[str, Any]:
        """Return one session."""
        return {
            "id": f"session {number}",
            "block_size": BLOCK_TOKENS,
            "hash_id_scope": "global",
            "requests": self._requests(script.main, script.start_s),
        }

    def _requests(self, agent: AgentScript, now_s: float) -> list[dict[str, Any]]:
        history: list[object] = [(agent.head, place) for place in range(agent.head_tokens)]
        history += [(agent.folder, place) for place in range(agent.folder_tokens)]
        requests: list[dict[str, Any]] = []
        think_s = 0.0
        for turn in agent.turns[: self._most_turns]:
            history += self._new(turn.new)
            requests.append(self._request(history, turn, now_s, think_s))
            history += self._new(turn.answer)
            if turn.agent is not None:
                requests.append(self._subagent(turn.agent, now_s))
            think_s = round(turn.gap_s, 2)
            now_s += think_s
        return requests

    def _request(
        self, history: abc.Sequence[object], turn: ScriptedTurn, now_s: float, think_s: float
    ) -> dict[str, Any]:
        return {
            "t": round(now_s, 2),
            "type": "s",
            "in": len(history),
            "out": turn.answer,
            "hash_ids": self._blocks(history),
            "think_time": think_s,
        }

    def _subagent(self, agent: AgentScript, now_s: float) -> dict[str, Any]:
        self._num_agents += 1
        name, requests = f"agent {self._num_agents}", self._requests(agent, now_s)
        return {
            "t": round(now_s, 2),
            "type": "subagent",
            "agent_id": name,
            "subagent_type": agent.head,
            "requests": requests,
        }

    def _new(self, count: int) -> list[object]:
        self._num_tokens += count
        return list(range(self._num_tokens - count, self._num_tokens))

    def _blocks(self, history: abc.Sequence[object]) -> list[int]:
        ends = range(BLOCK_TOKENS, len(history) + BLOCK_TOKENS, BLOCK_TOKENS)
        return [self._hashes.setdefault(tuple(history[:end]), len(self._hashes)) for end in ends]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6, help="first requests of each agent that are kept")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    writer = TraceWriter(options.turns)
    sessions = draw_sessions(options.seed, options.sessions, SCALE, hurry=20.0)
    lines = [
        json.dumps(writer.session(script, number), separators=(",", ":"))
        for number, script in enumerate(sessions, 1)
    ]
    options.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
