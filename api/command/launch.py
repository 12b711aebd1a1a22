"""`pensieve claude`: starts Claude Code on a running server, or on one that it starts first."""

import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager

from ... import PensieveError
from ..config import ServerConfig
from .certificates import open_directly
from .client_environment import (
    API_KEY,
    RunningServer,
    base_url,
    client_environment,
    fitting_flags,
    search_flags,
)

CLIENT = "claude"
CLIENT_VARIABLE = "PENSIEVE_CLAUDE"  # names the client's executable, where PATH does not hold it

PROBE_S = 5.0
STOP_S = 10.0  # time to stop before the server is killed; longer than its own limits in serve.py

PERMISSION_NOTE = (
    "Claude Code's automatic permission mode wants a classifier that a local server does not have; "
    "`--permission-mode manual` asks before each action."
)

SHORT_NOTE = "A context of {:,} tokens is short for Claude Code's full prompt, and so it starts with {}."


class LaunchError(PensieveError):
    """The client or the server cannot be started or found."""


def launch(config: ServerConfig, serve_flags: abc.Sequence[str], arguments: abc.Sequence[str]) -> int:
    """Run Claude Code with `arguments` until it ends; return its exit code. Raises LaunchError.

    serve_flags: flags of `pensieve serve`, used when no server answers.
    """
    client = find_client()
    _check_port(config)
    if config.api_keys_file is not None and config.api_key is None:
        raise LaunchError("--api-keys-file: give the client's own key as well, by --api-key")
    with _ending_with_us():
        running = find_server(config)
        if running is not None:
            return _run_client(client, arguments, running, config)
        with started_server(config, serve_flags) as running:
            return _run_client(client, arguments, running, config)


def print_environment(config: ServerConfig) -> None:
    """Print the shell commands that make `claude` use the running server. Raises LaunchError."""
    _check_port(config)
    running = find_server(config)
    if running is None:
        raise LaunchError(f"no server answers at {_url(config)}: start one with `pensieve serve`")
    print(f"unset {API_KEY}")
    known = {name: value for name, value in os.environ.items() if name == "NO_PROXY"}
    for name, value in client_environment(running, config.api_key, known).items():
        print(f"export {name}={shlex.quote(value)}")


def find_client() -> str:
    """Find Claude Code's executable. Raises LaunchError."""
    path = shutil.which(os.environ.get(CLIENT_VARIABLE) or CLIENT)
    if path is None:
        raise LaunchError(
            "Claude Code is not installed: `npm install -g @anthropic-ai/claude-code` does it "
            f"({CLIENT_VARIABLE} may name one that is not on the path)"
        )
    return path


def find_server(config: ServerConfig) -> RunningServer | None:
    """Return the server at the configured address, None when nothing listens there. Raises LaunchError."""
    url = _url(config)
    try:
        with open_directly(config).open(f"{url}/health", timeout=PROBE_S) as response:
            health = json.load(response)
        model, searches = str(health["model"]), bool(health.get("web_search"))
        return RunningServer(url, model, int(health["max_context"]), searches, config.tls_cert)
    except urllib.error.HTTPError as error:
        raise LaunchError(f"the server at {url} cannot answer requests (status {error.code})") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise LaunchError(f"the server at {url} cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"what answers at {url} is not Pensieve: give another --port") from error


@contextmanager
def started_server(config: ServerConfig, flags: abc.Sequence[str]) -> Iterator[RunningServer]:
    """Run `pensieve serve` for the time of the context. Raises LaunchError when it does not start."""
    process = subprocess.Popen(
        # -P: files of the user's folder must not be imported as modules.
        [sys.executable, "-P", "-m", "pensieve", "serve", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a Ctrl-C in the terminal goes to the client only
    )
    try:
        output = _Output(process)
        yield _wait_for_server(config, process, output)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


class _Output(threading.Thread):
    """Prints a server's output until the server is ready; later lines would disturb the client's screen."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self.last_line = ""
        self._lines = process.stdout
        self._quiet = False
        self.start()

    def run(self) -> None:
        for line in self._lines or ():
            self.last_line = line.strip() or self.last_line
            self._quiet = self._quiet or line.startswith(("Ready", "pensieve: "))
            if not self._quiet:
                print(line, end="", file=sys.stderr, flush=True)


def _wait_for_server(config: ServerConfig, process: subprocess.Popen[str], output: _Output) -> RunningServer:
    while process.poll() is None:
        running = find_server(config)
        if running is not None:
            return running
        time.sleep(0.1)
    output.join(PROBE_S)
    raise LaunchError(f"the server did not start: {output.last_line.removeprefix('pensieve: ')}")


def _run_client(
    client: str, arguments: abc.Sequence[str], server: RunningServer, config: ServerConfig
) -> int:
    flags = fitting_flags(server.max_context, arguments)
    if sys.stderr.isatty() and "--permission-mode" not in arguments:
        print(PERMISSION_NOTE, file=sys.stderr, flush=True)
    if sys.stderr.isatty() and flags:
        print(SHORT_NOTE.format(server.max_context, flags[0]), file=sys.stderr, flush=True)
    settings = client_environment(server, config.api_key, os.environ)
    # The client gets Ctrl-C as well, and handles it. Unlike SIG_IGN, a handler is not inherited.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.call([client, *search_flags(server), *flags, *arguments], env=settings)
    except OSError as error:
        raise LaunchError(f"{client} cannot be started: {error.strerror}") from error


@contextmanager
def _ending_with_us() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that the server that was started is stopped."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers[:2]:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _check_port(config: ServerConfig) -> None:
    if not config.port:
        raise LaunchError("--port 0 names no server: give the port that it listens on")


def _url(config: ServerConfig) -> str:
    return base_url(config.host, config.port, config.scheme)
