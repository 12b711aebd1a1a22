"""What sessions find of their prompts in the prefix cache: by plain LRU, and with what is known of sessions.

    python -m pensieve.bench.micro.retention
    python -m pensieve.bench.micro.retention --seeds 1 2 3 4 5 --memory 0.5 0.33 0.1
    python -m pensieve.bench.micro.retention --trace bench/micro/agent_sessions.jsonl --states

The real scheduler serves scripted sessions (`agent_scripts.py`) by a clock of its own; a step takes the
time of a simulated device, and no model runs. `memory` is a share of the memory in which nothing would be
computed twice by a cache that knows what is to come. `LRU` and `retention` are the shares of all prompt
tokens that were found, each the mean of all seeds and its standard deviation; `best` is what a cache of that
size would find that knows what is to come, of the very requests that retention has served; `ratio` is that of
LRU and retention, and `computed` that of the tokens that were not found. `room`: of the blocks that agents
find evicted when they come back, the share that could have been restored before, and for which nothing else
would have been evicted. `hints`: the client sends all of its headers; `ids`: only those of session and agent,
as Claude Code does unless told otherwise; `none`: no header. All lengths are an eighth of real ones.
"""

import argparse
from collections import abc
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, pstdev
from typing import get_args

from ...cache.blocks import BLOCK_SIZE
from ..report import table
from .agent_scripts import SessionScript, draw_sessions, read_sessions, write_sessions
from .best_eviction import ServedRequest, best_share
from .simulated_sessions import SCALE, FleetMemory, SimulatedSessions, Told


def memory_needed(served: Iterable[ServedRequest]) -> int:
    """Return the most tokens that were in use at once: sent before, and sent again later."""
    first: dict[int, float] = {}  # by a block's last token, which no other prefix has
    last: dict[int, float] = {}
    for request in sorted(served, key=lambda one: one.sent_s):
        for token in request.found_blocks:
            first.setdefault(token, request.sent_s)
            last[token] = request.sent_s
    changes = [(first[token], 1) for token in first] + [(last[token], -1) for token in first]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most * BLOCK_SIZE


ROOM = 128
"""Tokens beside the longest prompt that the smallest memory has."""


class Comparison:
    """Fleets, each played where nothing is evicted, by plain LRU, and with what is known of sessions."""

    def __init__(self, fleets: list[list[SessionScript]], has_states: bool) -> None:
        self._fleets = fleets
        self._has_states = has_states
        self._needs: list[int] = []
        self._longest = 0  # tokens of a prompt and what may follow it: no memory is smaller
        for fleet in fleets:
            played = SimulatedSessions(FleetMemory(has_states=has_states))
            most = played.play(fleet)
            self._needs.append(memory_needed(played.served))
            self._longest = max([self._longest, *(one.num_prompt + ROOM for one in played.served)])
            print(
                f"{played.num_requests} requests, {played.num_prompt:,} prompt tokens, {most:.1%} of them "
                f"found if nothing is evicted; {self._needs[-1]:,} tokens are needed",
                flush=True,
            )

    def lines(self, share: float, tells: Iterable[Told]) -> Iterator[list[str]]:
        """Yield a line of the table for each of `tells`, with that share of the memory."""
        plain, *_ = self._play(share, "hints", is_lru=True)
        for told in tells:
            known, best, room = self._play(share, told, is_lru=False)
            pairs = list(zip(known, plain, strict=True))
            ratios = [one / other for one, other in pairs]
            computed = [(1 - one) / (1 - other) for one, other in pairs]
            yield [f"{share:.2f}", told, *map(_spread, (plain, known, best, ratios, computed, room))]

    def _play(self, share: float, told: Told, is_lru: bool) -> list[list[float]]:
        """Return, for each fleet, the share that was found, the most that could have been, and the room."""
        memories = [
            FleetMemory(max(self._longest, int(need * share)), told, is_lru, self._has_states)
            for need in self._needs
        ]
        found, best, room = [], [], []
        for fleet, memory in zip(self._fleets, memories, strict=True):
            played = SimulatedSessions(memory)
            found.append(played.play(fleet))
            best.append(best_share(played.served, memory.num_tokens))
            room.append(played.num_with_room / max(1, played.num_evicted))
        return [found, best, room]


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ± {pstdev(values):.3f}"


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Print a line for each share of the memory and for what the client tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--memory", type=float, nargs="+", default=[1 / 3])
    parser.add_argument("--told", nargs="+", choices=get_args(Told), default=list(get_args(Told)))
    parser.add_argument("--trace", type=Path, default=None, help="a file of sessions in place of drawn ones")
    parser.add_argument("--states", action="store_true", help="of a model with recurrent states")
    parser.add_argument("--write", type=Path, default=None, help="only write the first seed's sessions there")
    options = parser.parse_args(arguments)
    if options.trace is not None:
        fleets = [read_sessions(options.trace)]
    else:
        fleets = [draw_sessions(seed, options.sessions, SCALE) for seed in options.seeds]
    if options.write is not None:
        write_sessions(options.write, fleets[0])
        return
    comparison = Comparison(fleets, options.states)
    lines = [line for share in options.memory for line in comparison.lines(share, options.told)]
    print(table(["memory", "told", "LRU", "retention", "best", "ratio", "computed", "room"], lines))


if __name__ == "__main__":
    main()
