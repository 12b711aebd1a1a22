"""A real server process with the demo model, and the real Claude Code."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="session")
def claude() -> str:
    """Path of the client. In CI it must be there; elsewhere its absence skips the test."""
    path = os.environ.get("PENSIEVE_CLAUDE") or shutil.which("claude")
    if path is None and not os.environ.get("CI"):
        pytest.skip("Claude Code is not installed; PENSIEVE_CLAUDE may name it")
    assert path is not None, "CI must install Claude Code and name it in PENSIEVE_CLAUDE"
    return path


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a server that the tests share."""
    with running_server() as url:
        yield url


@pytest.fixture
def cold_server() -> Iterator[str]:
    """URL of a server that has seen no prompt yet."""
    with running_server() as url:
        yield url


@contextmanager
def running_server(model: str = "demo") -> Iterator[str]:
    """`pensieve serve` with a model in a process of its own, on a free port; it must end cleanly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # No disk tier: its folder would be the user's, and what one test asks another would find there.
    flags = ["--model", model, "--port", str(port), "--disk-cache-gb", "0"]
    command = [sys.executable, "-m", "pensieve", "serve", *flags]
    # Into a file: a pipe that nobody reads is full after some hundred requests' lines.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_healthy(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)
            log.seek(0)
            output = log.read()
    assert process.returncode == 0, output
    assert "Traceback" not in output, output


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for /health to answer 200."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, f"it ended with {process.returncode}"
            time.sleep(0.1)
    raise AssertionError("the server does not start")
