"""What fair shares are worth: the same work with and without the headers that tell sessions and agents apart.

    python -m pensieve serve --model demo --disk-cache-gb 0
    python -m pensieve.bench.micro.fair_sessions --case crowd --rounds 3
    python -m pensieve.bench.micro.fair_sessions --case long --rounds 3

* crowd: three sessions, one of them with four subagents at work. The subagents send turn after turn until the
  three main agents have had theirs.
* long: 15 sessions decode while another one sends a long prompt.

Without the headers all requests have one key and so are one session to the server: it serves them in the
order of their arrival. Both ways take turns, each with prompts of its own. Times are seconds.
"""

import argparse
import random
import statistics
import threading
from collections import abc, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ... import DEFAULT_URL
from ..client import Timing, spread, stream
from ..filler_words import words
from ..report import table
from ..summary import percentile

NUM_SUBAGENTS = 4
NUM_DECODING = 15


@dataclass(frozen=True, slots=True)
class HeaderSender:
    """Who sends requests: a session's main agent, or a subagent that has a name."""

    session: str
    agent: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers that Claude Code sends, its hints for gateways among them."""
        named = {"x-claude-code-session-id": self.session}
        if self.agent:
            return named | {"x-claude-code-agent-id": self.agent, "x-claude-code-request-class": "subagent"}
        return named | {"x-claude-code-request-class": "main"}


@dataclass
class FairBench:
    """Plays a case once against one server. times: of all requests, by the group that they are counted in."""

    url: str
    rng: random.Random
    is_fair: bool
    times: dict[str, list[Timing]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, group: str, sender: HeaderSender, text: str, max_tokens: int) -> Timing:
        """Send one turn and wait for its end."""
        body: dict[str, Any] = {
            "model": "default",
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": text}],
        }
        timing = stream(self.url, body, headers=sender.headers() if self.is_fair else {})
        self.times[group].append(timing)
        return timing

    def crowd(self, turns: int, turn_chars: int, max_tokens: int) -> None:
        """Three sessions of `turns` turns each; the first one has subagents beside."""
        is_over = threading.Event()
        names = [f"{self.rng.getrandbits(64):x}" for _ in range(3)]

        def work(group: str, sender: HeaderSender, seed: int, goes_on: Callable[[int], bool]) -> None:
            rng, history, turn = random.Random(seed), "", 0
            while goes_on(turn):
                history += words(rng, turn_chars)
                self.ask(group, sender, history, max_tokens)
                turn += 1

        with ThreadPoolExecutor(3 + NUM_SUBAGENTS) as threads:
            crowd = [
                threads.submit(
                    work,
                    "subagents",
                    HeaderSender(names[0], f"a{agent}"),
                    self.rng.getrandbits(32),
                    lambda turn: not is_over.is_set(),
                )
                for agent in range(NUM_SUBAGENTS)
            ]
            groups = ("its main agent", "other sessions", "other sessions")
            mains = [
                threads.submit(
                    work, group, HeaderSender(name), self.rng.getrandbits(32), lambda turn: turn < turns
                )
                for group, name in zip(groups, names, strict=True)
            ]
            wait(mains)
            is_over.set()
        for done in (*mains, *crowd):
            done.result()  # raises what went wrong

    def long(self, max_tokens: int, long_chars: int, settle_s: float) -> None:
        """15 sessions that decode, and a long prompt `settle_s` after them."""
        names = [f"{self.rng.getrandbits(64):x}" for _ in range(NUM_DECODING + 1)]
        texts = [words(self.rng, 400) for _ in names[1:]]
        with ThreadPoolExecutor(NUM_DECODING + 1) as threads:
            asked = [
                threads.submit(self.ask, "decoding", HeaderSender(name), text, max_tokens)
                for name, text in zip(names[1:], texts, strict=True)
            ]
            threading.Event().wait(settle_s)
            text = words(self.rng, long_chars)
            asked.append(threads.submit(self.ask, "long prompt", HeaderSender(names[0]), text, 16))
        for done in asked:
            done.result()  # raises what went wrong


def lines(plays: abc.Sequence[FairBench]) -> list[list[str]]:
    """Return a line of the table for each group of some plays of one order, all rounds together."""
    found = []
    for group in plays[0].times:
        timings = [timing for play in plays for timing in play.times[group]]
        gaps = [later - earlier for one in timings for earlier, later in pairwise(one.delta_s)]
        turns = [one.end_s for one in timings]
        figures = [
            percentile([one.first_token_s for one in timings], 0.5),
            percentile(turns, 0.5),
            percentile(turns, 0.95),
            max(turns),
            percentile(gaps, 0.5),
            percentile(gaps, 0.99),
            max(gaps, default=None),
        ]
        shown = ["-" if value is None else f"{value:.2f}" for value in figures]
        found.append(["fair" if plays[0].is_fair else "plain", group, str(len(timings)), *shown])
    return found


def ratios(plain: abc.Sequence[FairBench], fair: abc.Sequence[FairBench]) -> Iterator[str]:
    """Yield for each group what its mean turn takes in fair order, as a multiple of that in plain order."""
    for group in plain[0].times:
        means = [
            [statistics.mean(timing.end_s for timing in play.times[group]) for play in plays]
            for plays in (plain, fair)
        ]
        by_round = [after / before for before, after in zip(*means, strict=True)]
        yield f"mean turn of {group}, fair / plain: {spread(by_round)} over the rounds"


HEAD = (
    *("order", "requests of", "number", "TTFT p50", "turn p50", "turn p95", "turn max"),
    *("ITL p50", "ITL p99", "ITL max"),
)


def main() -> None:
    """Play the case both ways in turns, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--case", choices=("crowd", "long"), default="crowd")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--turn-chars", type=int, default=4000)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--long-chars", type=int, default=24_000)
    parser.add_argument("--settle-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    plays = [FairBench(options.url, rng, bool(number % 2)) for number in range(2 * options.rounds)]
    for play in plays:
        if options.case == "crowd":
            play.crowd(options.turns, options.turn_chars, options.output_tokens)
        else:
            play.long(options.output_tokens, options.long_chars, options.settle_s)
    plain, fair = plays[::2], plays[1::2]
    print(table(HEAD, lines(plain) + lines(fair)))
    print(*ratios(plain, fair), sep="\n")


if __name__ == "__main__":
    main()
