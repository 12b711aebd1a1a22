"""Counts how many tasks the real Claude Code completes against a server.

    python -m pensieve.bench.claude --url http://127.0.0.1:7777 --claude PATH --task run --count 20

Every instance of a task is drawn from the seed and has a folder, a home and a session of its own. An instance
is right only when the tool call, the answer and the files are exactly as asked.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import string
import subprocess
import tempfile
import time
from collections import abc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import DEFAULT_URL, LOCAL_KEY

TOOLS = "Bash,Read,Edit"
FILE_NAMES = ("notes.txt", "config.ini", "todo.md", "settings.cfg", "report.txt", "names.csv")


class ClientFailed(Exception):
    """Claude Code ended with an error, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One run's answer and tool calls."""

    text: str
    calls: list[tuple[str, dict[str, Any]]]  # tool name and input, in order
    prompts: list[tuple[int, int]]  # tokens of each request's prompt: all, and those that were computed


@dataclass(slots=True)
class Session:
    """A client with a project folder and a home. As a context manager it removes both folders.

    prompts: of all requests so far, see Reply.
    """

    url: str
    claude: str
    bare: bool = True
    timeout_s: float = 240
    project: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="project-")))
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="home-")))
    prompts: list[tuple[int, int]] = field(default_factory=list)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for folder in (self.project, self.home):
            shutil.rmtree(folder, ignore_errors=True)

    def ask(self, prompt: str, go_on: bool = False) -> Reply:
        """Run `claude -p` once; `go_on` continues this session. Raises ClientFailed."""
        flags = [
            "--permission-mode",
            "manual",
            "--allowedTools",
            TOOLS,
            "--output-format",
            "stream-json",
            "--verbose",
            "--include-partial-messages",
        ]
        flags += ["--bare"] * self.bare + ["--continue"] * go_on
        command = [self.claude, "-p", prompt, *flags]
        try:
            done = subprocess.run(
                command,
                cwd=self.project,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClientFailed(f"no answer within {self.timeout_s} s") from error
        reply = read_events(done.stdout, done.stderr)
        self.prompts += reply.prompts
        return reply

    def environment(self) -> dict[str, str]:
        """Return the client's variables: of this process only PATH, and the server's address and key."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TERM": "xterm",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": LOCAL_KEY,
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        }


def read_events(output: str, errors: str) -> Reply:
    """Read the client's stream-json output. Raises ClientFailed."""
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    results = [event for event in events if event.get("type") == "result"]
    if not results or results[-1].get("is_error"):
        raise ClientFailed(str(results[-1].get("result") if results else errors[-500:]))
    blocks = [
        block for event in events if event.get("type") == "assistant" for block in event["message"]["content"]
    ]
    calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    streamed = [event["event"] for event in events if event.get("type") == "stream_event"]
    usages = [event["usage"] for event in streamed if event["type"] == "message_delta"]
    prompts = [
        (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["input_tokens"]) for usage in usages
    ]
    return Reply(results[-1]["result"], calls, prompts)


@dataclass(slots=True)
class Draw:
    """Draws the parts of tasks at random."""

    rng: random.Random

    def word(self) -> str:
        """Draw three to nine letters."""
        return "".join(self.rng.choices(string.ascii_lowercase, k=self.rng.randint(3, 9)))

    def phrase(self, least: int = 2, most: int = 5) -> str:
        """Draw `least` to `most` words."""
        return " ".join(self.word() for _ in range(self.rng.randint(least, most)))

    def lines(self) -> list[str]:
        """Draw the two to eight lines of a file."""
        return [self.phrase() for _ in range(self.rng.randint(2, 8))]

    def command(self) -> str:
        """Draw a harmless command that prints something."""
        options = (
            f"echo {self.phrase()}",
            f"echo '{self.phrase()}'",
            f"printf '{self.word()}\\n{self.word()}\\n'",
            f"seq {self.rng.randint(1, 5)} {self.rng.randint(6, 9)}",
            f"expr {self.rng.randint(10, 99)} + {self.rng.randint(10, 99)}",
            f"basename /{self.word()}/{self.word()}.txt",
        )
        return self.rng.choice(options)


def run_task(session: Session, draw: Draw, go_on: bool = False) -> bool:
    """Ask for a command's output. True if the client ran exactly that command and answered its output."""
    command = draw.command()
    output = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True
    ).stdout.strip()
    form = draw.rng.choice(
        ("Run the command `{}` and report its output.", "Run `{}` and tell me its output.")
    )
    reply = session.ask(form.format(command), go_on)
    ran = [arguments.get("command") for name, arguments in reply.calls if name == "Bash"]
    return ran == [command] and len(reply.calls) == 1 and reply.text == output


def read_task(session: Session, draw: Draw, go_on: bool = False) -> bool:
    """Ask for a file's first line. True if the client read exactly that file and answered with the line."""
    path, lines = write_file(session, draw)
    form = draw.rng.choice(("Read the file {} and quote its first line.", "What is the first line of {}?"))
    reply = session.ask(form.format(path), go_on)
    reads = [arguments.get("file_path") for name, arguments in reply.calls if name == "Read"]
    return reads == [str(path)] and len(reply.calls) == 1 and reply.text == lines[0]


def edit_task(session: Session, draw: Draw, go_on: bool = False) -> bool:
    """Ask to replace a text in a file. True if the file is then right to the byte."""
    path, lines = write_file(session, draw)
    old, new = draw.rng.choice(lines).split()[0], draw.word()
    before = path.read_text()
    if before.count(old) != 1:
        return edit_task(session, draw, go_on)
    form = draw.rng.choice(('In the file {}, replace "{}" with "{}".', 'Edit {}: change "{}" to "{}".'))
    session.ask(form.format(path, old, new), go_on)
    return path.read_text() == before.replace(old, new)


def three_turns(session: Session, draw: Draw, go_on: bool = False) -> bool:
    """Run, read and edit in one conversation. True if all three are right."""
    return (
        run_task(session, draw, go_on)
        and read_task(session, draw, go_on=True)
        and edit_task(session, draw, go_on=True)
    )


def write_file(session: Session, draw: Draw) -> tuple[Path, list[str]]:
    """Write a random file into the session's project; return its path and lines."""
    path, lines = session.project / draw.rng.choice(FILE_NAMES), draw.lines()
    path.write_text("\n".join(lines) + "\n")
    return path, lines


Task = Callable[[Session, Draw], bool]

TASKS: dict[str, Task] = {"run": run_task, "read": read_task, "edit": edit_task, "turns": three_turns}


def attempt(task: Task, session: Session, seed: str) -> tuple[bool, float]:
    """Play one instance; return whether it was right (not if the client fails) and its seconds."""
    started = time.perf_counter()
    with session:
        try:
            right = task(session, Draw(random.Random(seed)))
        except ClientFailed as error:
            print(f"{seed}: {error}")
            right = False
    return right, time.perf_counter() - started


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Run the instances and print a row for each task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument(
        "--claude", default=os.environ.get("PENSIEVE_CLAUDE", "claude"), help="the client's path"
    )
    parser.add_argument("--task", action="append", choices=list(TASKS), help="may be repeated (default: all)")
    parser.add_argument("--count", type=int, default=20, help="instances of each task")
    parser.add_argument("--sessions", type=int, default=1, help="instances at once")
    parser.add_argument("--full", action="store_true", help="the client's default prompt instead of --bare")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in options.task or list(TASKS):
        seeds = [f"{options.seed}-{name}-{i}" for i in range(options.count)]
        sessions = [Session(options.url, options.claude, bare=not options.full) for _ in seeds]
        with ThreadPoolExecutor(options.sessions) as users:
            outcomes = list(users.map(attempt, [TASKS[name]] * len(seeds), sessions, seeds))
        wrong = [seed for seed, (right, _) in zip(seeds, outcomes, strict=True) if not right]
        median_s = statistics.median(elapsed for _, elapsed in outcomes)
        num_right = len(seeds) - len(wrong)
        print(f"{name:<6} {num_right} of {len(seeds)} right, median {median_s:.1f} s   wrong: {wrong}")


if __name__ == "__main__":
    main()
