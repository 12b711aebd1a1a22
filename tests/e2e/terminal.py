"""A terminal that a test types into and reads: tmux, with the real client in it."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


class Terminal:
    """One session of the interactive client. A context manager that ends it."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        # Of its own: the tmux that served the session before may be about to remove its socket.
        self._socket = str(folder / f"tmux-{time.monotonic_ns()}")
        self._command = command
        self._folder = folder
        self._environment = environment

    def __enter__(self) -> "Terminal":
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        client = shlex.join(["env", "-i", *variables, *self._command])
        self._tmux(
            "-f", os.devnull, "new-session", "-d", "-x", "150", "-y", "60", "-c", str(self._folder), client
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def screen(self) -> str:
        """What can be read now, and what has been scrolled away."""
        return self._tmux("capture-pane", "-p", "-S", "-500")

    def say(self, text: str) -> None:
        """Type a line and send it."""
        self._tmux("send-keys", "-l", text)
        self.wait_for(re.escape(text))
        time.sleep(0.3)  # a line and its end in one piece would be taken for pasted text
        self.press("Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def wait_for(self, pattern: str, timeout_s: float = 180.0) -> str:
        """Wait until the screen shows a text; return the screen."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, screen := self.screen()):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r}:\n{screen}"
            time.sleep(0.05)
        return screen

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def make_home(folder: Path, project: Path) -> Path:
    """Make a home whose user has seen the client's first questions."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    known = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    settings = {"hasCompletedOnboarding": True, "theme": "dark", "projects": {str(project): known}}
    (home / ".claude.json").write_text(json.dumps(settings))
    return home
