"""Measures how much of the real Claude Code's prompts a server finds in its cache, by what two prompts share.

    pensieve serve --model demo
    python -m pensieve.bench.sharing --url http://127.0.0.1:7777 --claude PATH

The server must have seen no prompt yet. A script answers in the model's place (`scripted_answers.py`), so any
model will do that has the tokenizer and template in question. `pensieve claude` starts the client; the day is
changed in its requests.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import DEFAULT_URL, LOCAL_KEY
from .scripted_answers import Block, Reading, ScriptedAnswers

WAIT_S = 300.0

COMMIT = "git init -q . && git add . && git -c user.email=a@b.invalid -c user.name=n commit -qm Begin"

TODAY = re.compile(r"(Today's date is )\d{4}-\d\d-\d\d")

AGENTS = {"Ask an agent.": "general-purpose", "Ask an explorer.": "Explore"}
TASK = "Look for plums."
ANSWER = "Plums."
THOUGHTS = "The user wants to know something about plums, so I look. " * 20


def answer(question: str) -> list[Block]:
    """Answer a question in the model's place."""
    if "<summary> block" in question:
        return [("text", {"text": "<analysis>Short.</analysis>\n<summary>It was about plums.</summary>"})]
    for words, kind in AGENTS.items():
        if question.endswith(words):
            return [("Agent", {"description": "look", "prompt": TASK, "subagent_type": kind})]
    if question.endswith("Load a tool."):
        return [("ToolSearch", {"query": "select:WebFetch"})]
    if question.endswith("Read it."):
        return [("thinking", {"text": THOUGHTS}), ("Read", {"file_path": "CLAUDE.md"})]
    return [("thinking", {"text": THOUGHTS})] * (question == "result") + [("text", {"text": ANSWER})]


class Client:
    """The real client, whose requests go through `answers`, in two projects of its own."""

    def __init__(self, answers: ScriptedAnswers, path: str, root: Path, plain: bool = False) -> None:
        """plain: without the settings and flags of `pensieve claude`."""
        self._answers = answers
        self._home = root / "home"
        self.projects = [_make_project(root / name) for name in ("one", "two")]
        self._home.mkdir()
        trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
        settings: dict[str, Any] = {"hasCompletedOnboarding": True, "theme": "dark"}
        settings["projects"] = {str(project): trusted for project in self.projects}
        (self._home / ".claude.json").write_text(json.dumps(settings))
        launcher = [sys.executable, "-m", "pensieve", "claude", "--port", str(answers.server_port)]
        self._command = [*([path] if plain else launcher), "--permission-mode", "manual"]
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOME": str(self._home),
            "TERM": "xterm-256color",
            "DISABLE_TELEMETRY": "1",
            "PENSIEVE_CLAUDE": path,
        }
        if plain:
            self._environment |= {"ANTHROPIC_BASE_URL": answers.url, "ANTHROPIC_AUTH_TOKEN": LOCAL_KEY}

    def ask(self, project: Path, prompt: str, *flags: str) -> list[Reading]:
        """Run `claude -p`; return what the server had cached of its prompts. Raises RuntimeError."""
        first = len(self._answers.readings)
        done = subprocess.run(
            [*self._command, "-p", prompt, "--allowedTools", "Agent,ToolSearch,Read", *flags],
            cwd=project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the client failed: {done.stdout[-500:]} {done.stderr[-500:]}")
        return self._answers.readings[first:]

    def talk(self, project: Path, prompt: str) -> list[Reading]:
        """Type a prompt into the interactive client; return what the server had cached of its prompts."""
        first = len(self._answers.readings)
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(project)
            os.execvpe(self._command[0], self._command, self._environment)
        try:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
            _read_until(terminal, b"manual")
            _read_for(terminal, 1.0)
            os.write(terminal, prompt.encode())
            _read_for(terminal, 0.5)  # a line and its end in one piece would be taken for pasted text
            os.write(terminal, b"\r")
            _read_until(terminal, ANSWER.encode())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(terminal)
        return self._answers.readings[first:]


def _make_project(folder: Path) -> Path:
    """Make a project with instructions of its own and one commit."""
    folder.mkdir()
    (folder / "CLAUDE.md").write_text(f"This is the project {folder.name}.\n")
    subprocess.run(COMMIT, shell=True, cwd=folder, check=True)
    return folder


def _read_until(terminal: int, words: bytes) -> None:
    """Read the screen until it has shown some words. Raises RuntimeError."""
    deadline, shown = time.monotonic() + WAIT_S, b""
    while words not in shown:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the terminal never showed {words!r}: {shown[-500:]!r}")
        shown += _read_for(terminal, 0.1)


def _read_for(terminal: int, seconds: float) -> bytes:
    """Read what the screen shows for some time; unread, it would stop the client."""
    deadline, shown = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 65_536)
    return shown


def measure(client: Client, answers: ScriptedAnswers) -> Iterator[tuple[str, Reading]]:
    """Run the sessions one after the other; yield what two prompts share, and the second one's figures."""
    one, two = client.projects
    yield "nothing: the first session", client.ask(one, "What is a plum?")[0]
    yield "folder and day", client.ask(one, "Where do plums grow?")[0]
    answers.rewrite = lambda body: TODAY.sub(r"\g<1>2031-07-01", body)
    yield "folder", client.ask(one, "When do plums ripen?")[0]
    answers.rewrite = str
    yield "day", client.ask(two, "What is a plum?")[0]
    for words, kind in AGENTS.items():
        yield f"session: its first {kind} subagent", _of_agent(client.ask(one, words))
    for words, kind in AGENTS.items():
        yield f"kind: another {kind} subagent, in the other folder", _of_agent(client.ask(two, words))
    yield "session: a tool has been loaded", client.ask(one, "Load a tool.")[-1]
    client.ask(one, "Read it.")
    yield "session: words after a loop with thoughts", client.ask(one, "And then?", "--continue")[0]
    client.ask(one, "/compact", "--continue")
    yield "session: after /compact", client.ask(one, "What was it about?", "--continue")[0]
    yield "folder and day: the first in a terminal", _largest(client.talk(one, "What is a plum?"))
    yield "folder and day: the second in a terminal", _largest(client.talk(one, "Where do plums grow?"))


def _of_agent(readings: abc.Sequence[Reading]) -> Reading:
    return next(reading for reading in readings if reading.agent)


def _largest(readings: abc.Sequence[Reading]) -> Reading:
    """Return the session's own prompt; a plain client asks for a title as well."""
    return max(readings, key=lambda reading: reading.prompt_tokens)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument(
        "--claude", default=os.environ.get("PENSIEVE_CLAUDE", "claude"), help="the client's path"
    )
    parser.add_argument("--plain", action="store_true", help="without what `pensieve claude` sets")
    options = parser.parse_args()
    print("| what a prompt shares with one before | tokens | cached | computed |\n| --- | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as root, ScriptedAnswers(options.url, answer) as answers:
        client = Client(answers, options.claude, Path(root), options.plain)
        for name, reading in measure(client, answers):
            computed = reading.prompt_tokens - reading.cached_tokens
            print(f"| {name} | {reading.prompt_tokens} | {reading.cached_tokens} | {computed} |", flush=True)


if __name__ == "__main__":
    main()
