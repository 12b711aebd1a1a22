"""What sessions find of their prompts in the prefix cache: by plain LRU, and with what is known of sessions.

    python -m pensieve.bench.micro.retention
    python -m pensieve.bench.micro.retention --seeds 1 2 3 4 5 --memory 0.5 0.33 0.1
    python -m pensieve.bench.micro.retention --trace bench/micro/agent_sessions.jsonl --states

The real scheduler serves scripted sessions (`agent_scripts.py`) by a clock of its own; a step takes the
time of a simulated device, and no model runs. `memory` is a share of the memory in which nothing would be
computed twice by a cache that knows what is to come. `LRU` and `retention` are the shares of all prompt
tokens that were found, each the mean of all seeds and its standard deviation; `ratio` is that of the two,
and `computed` that of the tokens that were not found. `hints`: the client sends all of its headers; `ids`:
only those of session and agent, as Claude Code does unless told otherwise; `none`: no header. All lengths
are an eighth of real ones.
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
from .simulated_sessions import SCALE, FleetMemory, SimulatedSessions, Told


def memory_needed(prompts: Iterable[tuple[float, list[int]]]) -> int:
    """Return the most tokens that were in use at once: sent before, and sent again later."""
    first: dict[int, float] = {}  # by a block's last token, which no other prefix has
    last: dict[int, float] = {}
    for sent_s, prompt in prompts:
        for token in prompt[BLOCK_SIZE - 1 :: BLOCK_SIZE]:
            first.setdefault(token, sent_s)
            last[token] = sent_s
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
            self._needs.append(memory_needed(played.prompts))
            self._longest = max([self._longest, *(len(prompt) + ROOM for _, prompt in played.prompts)])
            print(
                f"{played.num_requests} requests, {played.num_prompt:,} prompt tokens, {most:.1%} of them "
                f"found if nothing is evicted; {self._needs[-1]:,} tokens are needed",
                flush=True,
            )

    def lines(self, share: float, tells: Iterable[Told]) -> Iterator[list[str]]:
        """Yield a line of the table for each of `tells`, with that share of the memory."""
        plain = self._play(share, "hints", is_lru=True)
        for told in tells:
            known = self._play(share, told, is_lru=False)
            pairs = list(zip(known, plain, strict=True))
            ratios = [one / other for one, other in pairs]
            computed = [(1 - one) / (1 - other) for one, other in pairs]
            yield [f"{share:.2f}", told, *map(_spread, (plain, known, ratios, computed))]

    def _play(self, share: float, told: Told, is_lru: bool) -> list[float]:
        memories = [
            FleetMemory(max(self._longest, int(need * share)), told, is_lru, self._has_states)
            for need in self._needs
        ]
        pairs = zip(self._fleets, memories, strict=True)
        return [SimulatedSessions(memory).play(fleet) for fleet, memory in pairs]


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
    print(table(["memory", "told", "LRU", "retention", "ratio", "computed"], lines))


if __name__ == "__main__":
    main()
