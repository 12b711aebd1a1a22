"""What fair shares are worth to the real Claude Code: three sessions, one with four subagents at work.

    python -m pensieve serve --model demo --disk-cache-gb 0
    python -m pensieve.bench.micro.client_fairness --claude PATH --rounds 3

Three clients (`pensieve claude -p`) start at once. The first one has four subagents started, which call
a tool turn after turn until all three main agents have had their `--turns`; those call the same tool. What
clients send goes on to the server, which computes the prompt and an answer; what clients get is written
beforehand (`scripted_answers.py`), so that a model which knows nothing of subagents will do. A turn lasts
from the client's request until the server has written its answer.

Two ways take turns. Fair: the requests have the client's own headers. Plain: those that tell sessions and
agents apart are taken away, and `metadata`, so that all requests are one session's, and first come is first
served. Each fair play stands between two plain ones, whose mean it is compared with, as a machine with other
work is not equally fast at all times. A play before all others, which does not count, has tools and system
prompts computed. Times are seconds.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import abc, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from itertools import pairwise
from pathlib import Path

from ... import DEFAULT_URL
from ..client import Timing, spread, stream
from ..filler_words import words
from ..report import table
from ..scripted_answers import Block, Json, ScriptedAnswers
from ..summary import percentile

NUM_SUBAGENTS = 4
NUM_SESSIONS = 3

CROWD, ALONE = "Have it looked at from four sides.", "Look at it."
"""What users ask for."""

ITS_MAIN, OTHERS, SUBAGENTS = "main agent with a crowd", "other main agents", "subagents"

IDENTITY = "x-claude-code-"
"""How the names of the headers begin that say who asks."""

CLIENT_S = 900.0
"""Seconds after which a client that has not ended is given up."""

END: list[Block] = [("text", {"text": "Seen."})]


class ClientRelay(ScriptedAnswers):
    """Lets the server compute what clients ask, and answers by a script.

    timings: of all turns, by the group that they are counted in, until the last main agent was done.
    unfinished_s: what subagents' turns that were under way then had taken; without them, long turns would be
    left out more often than short ones.
    work_s: of each main agent, from its first request to its last answer. failures: of requests.
    """

    def __init__(self, options: argparse.Namespace, is_fair: bool) -> None:
        super().__init__(options.url, lambda question: END)
        self.timings: dict[str, list[Timing]] = defaultdict(list)
        self.unfinished_s: list[float] = []
        self.work_s: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self._options = options
        self._is_fair = is_fair
        self._begun_s: dict[str, float] = {}  # by session
        self._under_way: dict[str, float] = {}  # when each subagent's turn began
        self._num_done = 0  # main agents that have had their turns
        self._counting = threading.Lock()

    def turns_s(self, group: str) -> list[float]:
        """Return the times of a group's turns; those not finished count with what they had taken."""
        return [
            *(timing.end_s for timing in self.timings[group]),
            *(self.unfinished_s if group == SUBAGENTS else []),
        ]

    def respond(self, raw: bytes, headers: Message) -> tuple[Json, list[Block]]:
        """Have a request computed, and return its body with the script's answer."""
        body: Json = json.loads(raw)
        is_crowd, is_main = CROWD in str(body["messages"]), f"{IDENTITY}agent-id" not in headers
        number = sum(message["role"] == "assistant" for message in body["messages"])
        session, group = headers[f"{IDENTITY}session-id"], ITS_MAIN if is_crowd else OTHERS
        self._begun_s.setdefault(session, time.monotonic())
        agent = headers.get(f"{IDENTITY}agent-id", "")
        if not is_main:
            self._under_way[agent] = time.monotonic()
        timing = self._compute(body, headers)
        is_last = number >= self._options.turns - 1
        with self._counting:
            self._under_way.pop(agent, None)
            if self._num_done < NUM_SESSIONS and (not is_main or number < self._options.turns):
                self.timings[group if is_main else SUBAGENTS].append(timing)
            if is_main and number == self._options.turns - 1:
                self._num_done += 1
                now_s = time.monotonic()
                self.work_s[group].append(now_s - self._begun_s[session])
                if self._num_done == NUM_SESSIONS:
                    self.unfinished_s = [now_s - begun_s for begun_s in self._under_way.values()]
            is_over = self._num_done == NUM_SESSIONS
        if is_main and is_crowd and number == 0:
            return body, [subagent(place) for place in range(NUM_SUBAGENTS)]
        return body, END if (is_last if is_main else is_over) else [self._look(number)]

    def _look(self, number: int) -> Block:
        first = 1000 * (number + 1)
        return "Bash", {"command": f"seq {first} {first + self._options.result_lines - 1}"}

    def _compute(self, body: Json, headers: Message) -> Timing:
        sent = body | {"max_tokens": self._options.output_tokens, "temperature": 0}  # both ways the same
        if not self._is_fair:
            sent.pop("metadata", None)
        named = {
            name: value
            for name, value in headers.items()
            if self._is_fair and name.lower().startswith(IDENTITY)
        }
        try:
            return stream(self.target, sent, CLIENT_S, named)
        except (RuntimeError, OSError) as error:
            self.failures.append(str(error))
            raise


def subagent(place: int) -> Block:
    """Return the call that starts a subagent."""
    prompt = f"Look at side {place}."
    return "Agent", {"description": "look", "prompt": prompt, "subagent_type": "general-purpose"}


def play(options: argparse.Namespace, rng: random.Random, is_fair: bool) -> ClientRelay:
    """Play all sessions once. Raises RuntimeError where a request or a client has failed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ClientRelay(options, is_fair) as relay,
        ThreadPoolExecutor(NUM_SESSIONS) as users,
    ):
        prompts = [f"{words(rng, 60)}. {task}" for task in (CROWD, ALONE, ALONE)]
        folders = [Path(folder) / str(number) for number in range(NUM_SESSIONS)]
        clients = [(options.claude, relay.server_port, *each) for each in zip(folders, prompts, strict=True)]
        ended = [users.submit(run_client, *client) for client in clients]
        for client in ended:
            client.result()
    counts = {group: len(relay.timings[group]) for group in (ITS_MAIN, OTHERS)}
    if relay.failures or counts != {ITS_MAIN: options.turns, OTHERS: 2 * options.turns}:
        raise RuntimeError(f"main agents' turns: {counts}; failures: {relay.failures}")
    return relay


def run_client(claude: str, port: int, folder: Path, prompt: str) -> None:
    """Run `pensieve claude -p` in a new project of a new user. Raises RuntimeError."""
    (folder / "project").mkdir(parents=True)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        "HOME": str(folder),
        "TERM": "xterm",
        "DISABLE_TELEMETRY": "1",
        "PENSIEVE_CLAUDE": claude,
    }
    command = [sys.executable, "-m", "pensieve", "claude", "--port", str(port), "-p", prompt]
    done = subprocess.run(
        [*command, "--permission-mode", "manual", "--allowedTools=Bash,Agent", "--tools=Bash,Agent"],
        cwd=folder / "project",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stdout[-500:]} {done.stderr[-500:]}")


HEAD = ("order", "turns of", "number", "TTFT p50", "turn p50", "turn mean", "turn max", "its work, mean")


def lines(order: str, plays: abc.Sequence[ClientRelay]) -> Iterator[list[str]]:
    """Yield a line of the table for each group, all rounds together."""
    for group in (ITS_MAIN, OTHERS, SUBAGENTS):
        timings = [timing for one in plays for timing in one.timings[group]]
        turns = [seconds for one in plays for seconds in one.turns_s(group)]
        if not timings:
            continue
        work = [seconds for one in plays for seconds in one.work_s[group]]
        figures = [
            percentile([timing.first_token_s for timing in timings], 0.5),
            percentile(turns, 0.5),
            statistics.mean(turns),
            max(turns),
            statistics.mean(work) if work else None,
        ]
        shown = ["-" if value is None else f"{value:.2f}" for value in figures]
        yield [order, group, str(len(timings)), *shown]


def ratios(plain: abc.Sequence[ClientRelay], fair: abc.Sequence[ClientRelay]) -> Iterator[str]:
    """Yield what turns take in fair order, as a multiple of that in plain order before and after."""
    for group in (ITS_MAIN, OTHERS, SUBAGENTS):
        without, with_shares = (
            [statistics.mean(one.turns_s(group) or [math.nan]) for one in plays] for plays in (plain, fair)
        )
        beside = [statistics.mean(pair) for pair in pairwise(without)]
        by_round = [seconds / other for seconds, other in zip(with_shares, beside, strict=True)]
        counted = [ratio for ratio in by_round if not math.isnan(ratio)]  # of plays in which it had turns
        shown = f"{spread(counted)} over {len(counted)} rounds" if counted else "in no round"
        yield f"mean turn of {group}, fair / plain: {shown}"


def main() -> None:
    """Play all rounds both ways in turns, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--claude", default=os.environ.get("PENSIEVE_CLAUDE", "claude"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=5, help="of each main agent")
    parser.add_argument("--output-tokens", type=int, default=48, help="most of an answer")
    parser.add_argument("--result-lines", type=int, default=200, help="that a tool's result has")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    play(options, rng, False)
    plays = [play(options, rng, bool(number % 2)) for number in range(2 * options.rounds + 1)]
    plain, fair = plays[::2], plays[1::2]
    print(table(HEAD, [*lines("plain", plain), *lines("fair", fair)]))
    print(*ratios(plain, fair), sep="\n")


if __name__ == "__main__":
    main()
