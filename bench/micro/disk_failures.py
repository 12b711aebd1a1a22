"""A server whose disk fails, as its clients see it.

    python -m pensieve.bench.micro.disk_failures --model demo --sessions 40

One server fills a folder for KV. On a second one each session fails in another way: at its n-th call on the
disk, with ENOSPC or EIO, once or several times; its first turn reads KV, its second one writes some. On each
of some further servers one call fails for ever, until the disk tier is off, and on others one never returns,
as on a network mount that has lost its server. A last server has no disk tier: its answers are the right
ones, and all others must be equal to them.
"""

import argparse
import errno
import os
import random
import tempfile
import time
from collections import abc
from dataclasses import dataclass, field
from pathlib import Path

from ..client import read_metric, spread
from ..restart import KilledSession, running
from ..turns import words
from .failing_calls import CALLS, HANGS, SITE, VARIABLE

CODES = (errno.ENOSPC, errno.EIO)
LASTING_CALLS = ("open_new", "write", "sync", "rename")
"""Calls without which nothing is written: the tier is off once they have failed often enough."""

HANGING_CALLS = ("free_bytes", "read_into", "write")
"""A call of each thread that waits for the disk: the server's, and the engine's for reading and writing."""

FOREVER = 10**9
OFF_S = 60
OFF_LINE = "the disk tier is off"
LETTERS, NEW_LETTERS = 800, 300
"""Of a session's first question, long enough to be saved, and of the others."""


@dataclass
class DiskTrial:
    """What the servers have answered."""

    folder: Path
    model: str
    num_tokens: int = 8
    answers: dict[tuple[int, int], set[str]] = field(default_factory=dict)  # by session and turn

    @property
    def script(self) -> Path:
        """The file that says which calls fail."""
        return self.folder / "failures"

    @property
    def environment(self) -> dict[str, str]:
        """That of a server whose disk fails."""
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {VARIABLE: str(self.script), "PYTHONPATH": os.pathsep.join(paths)}

    def fail(self, call: str, code: int, first: int, count: int) -> None:
        """Let calls fail from now on."""
        new = self.script.with_suffix(".new")
        new.write_text(f"{call} {code} {first} {count}", encoding="utf-8")
        new.replace(self.script)

    def play(self, url: str, seed: int, num_turns: int) -> float:
        """Play a session, and keep its answers. Returns how long the slowest one took, in seconds."""
        session, rng, most_s = KilledSession(seed), random.Random(seed), 0.0
        for turn in range(num_turns):
            timing = session.ask(url, words(rng, NEW_LETTERS if turn else LETTERS), self.num_tokens)
            self.answers.setdefault((seed, turn), set()).add(timing.text)
            most_s = max(most_s, timing.end_s)
        return most_s

    @property
    def num_wrong(self) -> int:
        """Turns that were answered differently by different servers."""
        return sum(len(texts) > 1 for texts in self.answers.values())


def main() -> None:
    """Try and print. Ends with an error if a failure was noticed by a client, or the tier does not end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--sessions", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="failures-") as name:
        trial = DiskTrial(Path(name), options.model)
        fill(trial, options.sessions)
        print(transient(trial, options.sessions))
        for call in LASTING_CALLS:
            for code in CODES:
                print(lasting(trial, call, code, options.sessions))
        for call in HANGING_CALLS:
            print(hanging(trial, call, options.sessions))
        print(judge(trial))
    if trial.num_wrong:
        raise SystemExit("answers differ")


def fill(trial: DiskTrial, num_sessions: int) -> None:
    """Have the first turns of all sessions on disk."""
    with running(trial.folder, trial.model) as (_, url):
        for seed in range(num_sessions):
            trial.play(url, seed, 1)


def transient(trial: DiskTrial, num_sessions: int) -> str:
    """Let each session fail in another way. Returns what has happened, for people."""
    trial.fail("none", 0, 0, 0)
    with running(trial.folder, trial.model, trial.environment) as (server, url):
        for seed, (call, code) in zip(range(num_sessions), failures(), strict=False):
            rng = random.Random(seed)
            trial.fail(call, code, rng.randint(1, 5), rng.choice([1, 1, 3]))
            trial.play(url, seed, 2)
        trial.fail("none", 0, 0, 0)
        if read_metric(url, "pensieve_disk_off"):
            raise SystemExit("the tier is off after failures that have passed")
        failed, written = (
            read_metric(url, f"pensieve_disk_{name}_total") for name in ("failures", "written_bytes")
        )
        read = read_metric(url, "pensieve_disk_read_bytes_total")
    if OFF_LINE in server.log.read_text(encoding="utf-8"):
        raise SystemExit("the log says that the tier is off")
    return (
        f"transient: {num_sessions} sessions, {failed:.0f} files failed, {written / 1e6:.1f} MB written, "
        f"{read / 1e6:.1f} MB read; the tier is on"
    )


def failures() -> abc.Iterator[tuple[str, int]]:
    """Yield calls and errors, all in turn, without end."""
    while True:
        yield from ((call, code) for code in CODES for call in CALLS)


def lasting(trial: DiskTrial, call: str, code: int, num_sessions: int) -> str:
    """Let a call fail for ever, and play sessions until the tier is off. Returns what has happened."""
    log = trial.folder / "log"
    log.unlink()
    trial.fail(call, code, 1, FOREVER)
    with running(trial.folder, trial.model, trial.environment) as (_, url):
        begun, seed = time.monotonic(), num_sessions
        while not read_metric(url, "pensieve_disk_off"):
            if time.monotonic() - begun > OFF_S:
                raise SystemExit(f"{call}: the tier is still on")
            trial.play(url, seed, 2)
            seed += 1
        trial.play(url, 0, 2)
        failed = read_metric(url, "pensieve_disk_failures_total")
    num_lines = log.read_text(encoding="utf-8").count(OFF_LINE)
    if num_lines != 1:
        raise SystemExit(f"{call}: {num_lines} lines say that the tier is off")
    played = f"{failed:.0f} failed files, {seed - num_sessions} sessions"
    return f"{errno.errorcode[code]} at each {call}: off after {played}, one line"


def hanging(trial: DiskTrial, call: str, num_sessions: int) -> str:
    """Let a call never return, and play sessions that are on disk and new ones. Returns what has happened."""
    trial.fail("none", 0, 0, 0)
    seeds = [0, 1, num_sessions, num_sessions + 1]
    with running(trial.folder, trial.model, trial.environment) as (_, url):
        trial.fail(call, HANGS, 1, FOREVER)
        most_s = [trial.play(url, seed, 2) for seed in seeds]
        stopped = time.monotonic()
    stop_s = time.monotonic() - stopped
    return f"{call} hangs: {2 * len(seeds)} turns, {spread(most_s)} s; the server stops in {stop_s:.0f} s"


def judge(trial: DiskTrial) -> str:
    """Ask a server without a disk tier the same. Returns the verdict."""
    num_turns = {seed: 1 + turn for seed, turn in sorted(trial.answers)}
    with running(trial.folder, trial.model, disk_gb=0) as (_, url):
        for seed, count in num_turns.items():
            trial.play(url, seed, count)
    return f"{len(trial.answers)} turns compared with a server without a disk tier: {trial.num_wrong} differ"


if __name__ == "__main__":
    main()
