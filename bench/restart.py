"""What a server finds again after it was killed, and how long the first token takes then.

    python -m pensieve.bench.restart --model demo
    python -m pensieve.bench.restart --model demo --long 12000 --repeat 3

Starts servers of its own, one after the other, on a new folder for KV. The first plays sessions side by side
and is killed by -9 in the middle of them; the second gets each session's next turn. A prompt token counts as
finished once its turn's answer is complete. With --long, the same with one long prompt, whose cold time is
the first server's.
"""

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections import abc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from .client import Timing, read_metric, spread, stream
from .server_process import ServerProcess, free_port
from .turns import words

START_S = 120
NEW_LETTERS = 200
"""Of a session's next question."""

LETTERS_A_TOKEN = 1.3
"""Of random words, with the demo model's tokenizer."""


@dataclass
class KilledSession:
    """A conversation, as far as the first server has finished it."""

    seed: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    num_finished: int = 0  # prompt tokens of the last turn that was answered

    def ask(self, url: str, text: str, num_tokens: int) -> Timing:
        """Send one more question; what it adds to the conversation stays only if it is answered."""
        messages = [*self.messages, {"role": "user", "content": text}]
        body = {"model": "claude-bench", "max_tokens": num_tokens, "messages": messages}
        timing = stream(url, body)
        self.messages = [*messages, {"role": "assistant", "content": timing.text or "."}]
        self.num_finished = timing.input_tokens + timing.cached_tokens
        return timing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument(
        "--tokens", type=int, default=3000, help="of each first prompt, a third of them shared"
    )
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--turns", type=int, default=20, help="finished, of all sessions, before the kill")
    parser.add_argument("--long", type=int, default=0, help="tokens of a long prompt; 0 for sessions")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    for number in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="restart-") as name:
            if options.long:
                long_prompt(Path(name), options, number)
            else:
                killed_sessions(Path(name), options, number)


def killed_sessions(folder: Path, options: argparse.Namespace, seed: int) -> None:
    """Kill a server in the middle of sessions, and print what the next one finds."""
    rng = random.Random(seed)
    shared = words(rng, int(options.tokens * LETTERS_A_TOKEN / 3))
    sessions = [KilledSession(rng.randrange(2**32)) for _ in range(options.sessions)]
    enough = threading.Semaphore(0)

    def play(session: KilledSession, url: str) -> None:
        own = random.Random(session.seed)
        text = shared + words(own, int(options.tokens * LETTERS_A_TOKEN * 2 / 3))
        while True:
            try:
                session.ask(url, text, options.answer)
            except (OSError, HTTPException, RuntimeError, KeyError):
                return  # the server is gone
            enough.release()
            text = words(own, NEW_LETTERS)

    with running(folder, options.model) as (server, url), ThreadPoolExecutor(len(sessions)) as pool:
        for session in sessions:
            pool.submit(play, session, url)
        for _ in range(options.turns):
            enough.acquire()
        server.kill()
        written = folder_bytes(folder)
    found = finished = 0
    first_tokens = []
    with running(folder, options.model) as (_, url):
        for session in sessions:
            wanted = session.num_finished
            timing = session.ask(url, words(rng, NEW_LETTERS), 1)
            finished += wanted
            found += min(wanted, timing.cached_tokens)
            first_tokens.append(timing.first_token_s)
        restored = read_metric(url, "pensieve_disk_read_bytes_total")
    print(
        f"{len(sessions)} sessions: found {found:,} of {finished:,} finished prompt tokens "
        f"({100 * found / finished:.1f} %), {written / 1e6:.1f} MB on disk, {restored / 1e6:.1f} MB read; "
        f"TTFT {spread(first_tokens)} s"
    )


def long_prompt(folder: Path, options: argparse.Namespace, seed: int) -> None:
    """Print the time to the first token of a long prompt: cold, its next turn, and that after a restart."""
    rng = random.Random(seed)
    text = words(rng, int(options.long * LETTERS_A_TOKEN))
    session = KilledSession(seed)
    with running(folder, options.model) as (server, url):
        session.ask(url, words(rng, 2000), 1)  # what only a process's first pass takes
        session.messages.clear()
        cold = session.ask(url, text, options.answer)
        wait_until_still(folder)
        server.kill()
    with running(folder, options.model) as (_, url):
        KilledSession(seed).ask(url, words(rng, 2000), 1)
        wanted = session.num_finished
        again = session.ask(url, words(rng, 200), 1)
        warm = session.ask(url, words(rng, 200), 1)
    print(
        f"{wanted:,} tokens: TTFT cold {cold.first_token_s:.2f} s, after the restart "
        f"{again.first_token_s:.2f} s ({again.first_token_s / cold.first_token_s:.3f} of it; "
        f"{again.cached_tokens:,} tokens found), from memory {warm.first_token_s:.2f} s"
    )


@contextmanager
def running(
    folder: Path, model: str, variables: abc.Mapping[str, str] | None = None, disk_gb: float = 4
) -> abc.Iterator[tuple[ServerProcess, str]]:
    """Run a server with its KV in `folder`; yield it and its URL once it answers.

    variables: of its environment, beside those of this process. disk_gb: 0 for no disk tier.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [
        "--model",
        model,
        "--port",
        str(port),
        "--cache-dir",
        str(folder / "kv"),
        "--disk-cache-gb",
        str(disk_gb),
    ]
    command = [sys.executable, "-m", "pensieve", "serve", *arguments]
    with ServerProcess(command, os.environ | (variables or {}), folder / "log") as server:
        begun = time.monotonic()
        while not answers(url, has_disk=disk_gb > 0):
            if not server.is_running or time.monotonic() - begun > START_S:
                raise SystemExit(f"the server does not start: {server.last_words()}")
            time.sleep(0.1)
        yield server, url


def answers(url: str, has_disk: bool) -> bool:
    """Whether a server answers there. has_disk: and its disk tier is open."""
    try:
        return (read_metric(url, "pensieve_disk_limit_bytes") > 0) == has_disk
    except OSError:
        return False


def folder_bytes(folder: Path) -> int:
    """Return the size of all files of KV."""
    return sum(path.stat().st_size for path in (folder / "kv").rglob("*.kv"))


def wait_until_still(folder: Path) -> None:
    """Wait until nothing has been written for a second."""
    before = -1
    while before != (now := folder_bytes(folder)):
        before = now
        time.sleep(1)


if __name__ == "__main__":
    main()
