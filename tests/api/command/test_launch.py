"""`pensieve claude` with a client that only tells what it was given."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pensieve.api.command.client_environment import RunningServer, client_environment, fitting_flags
from pensieve.api.command.command_line import split_client_arguments
from pensieve.api.command.launch import find_server
from pensieve.api.config import ServerConfig

from ..conftest import Server, StartServer

CLIENT = """\
#!{python}
import json, os, sys, time, urllib.request
told = {{"arguments": sys.argv[1:], "environment": dict(os.environ)}}
told["health"] = json.load(urllib.request.urlopen(os.environ["ANTHROPIC_BASE_URL"] + "/health"))
json.dump(told, open({told!r}, "w"))
time.sleep(float(os.environ.get("CLIENT_SLEEPS", 0)))
sys.exit(7)
"""


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where the client writes what it was given; its own path is `client`, beside it."""
    file, client = tmp_path / "told.json", tmp_path / "client"
    client.write_text(CLIENT.format(python=sys.executable, told=str(file)))
    client.chmod(0o755)
    return file


def run(told: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `pensieve claude` with the client beside `told`."""
    with start(told, *arguments, **variables) as process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start(told: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pensieve", "claude", *arguments],
        env=inherited | {"PENSIEVE_CLAUDE": str(told.with_name("client"))} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def read(told: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(told.read_text())
    return content


def test_the_client_gets_its_arguments_unchanged_and_all_that_it_needs(server: Server, told: Path) -> None:
    arguments = ["-p", "say  'hi'", "--model", "x", "--port", "1", "--", "--help"]
    done = run(told, "--port", str(server.port), *arguments, ANTHROPIC_API_KEY="mine", NO_PROXY="a.test")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert read(told)["arguments"] == ["--disallowedTools=WebSearch", *arguments]
    found = read(told)["environment"]
    assert "ANTHROPIC_API_KEY" not in found
    names = [name for name in found if name.startswith("ANTHROPIC_") and name.endswith("_MODEL")]
    assert len(names) == 5
    assert {found[name] for name in names} == {server.model.name}
    expected = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": "pensieve-local-key",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "100000",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8192",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
        "NO_PROXY": "a.test,127.0.0.1",
    }
    assert {name: found[name] for name in expected} == expected


def test_the_servers_key_and_the_users_own_settings_are_kept(start_server: StartServer, told: Path) -> None:
    server = start_server(config=ServerConfig(api_key="secret"))
    run(told, f"--port={server.port}", "--api-key", "secret", CLAUDE_CODE_MAX_OUTPUT_TOKENS="77")
    found = read(told)["environment"]
    assert (found["ANTHROPIC_AUTH_TOKEN"], found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"]) == ("secret", "77")


def test_print_env_is_what_a_shell_can_read(server: Server, told: Path) -> None:
    printed = run(told, "--print-env", "--port", str(server.port), PENSIEVE_CLAUDE="/nowhere").stdout
    script = f"{printed}\nenv -0"
    shell = {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "old"}
    done = subprocess.run(["sh", "-c", script], env=shell, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    running = RunningServer(server.url, server.model.name, 100_000)
    assert client_environment(running, None, {}).items() <= found.items()
    assert "ANTHROPIC_API_KEY" not in found


def test_without_a_client_it_says_how_to_get_one(told: Path) -> None:
    done = run(told, PENSIEVE_CLAUDE="/nowhere/claude")
    assert done.returncode == 1
    assert done.stderr.startswith("pensieve: Claude Code is not installed: `npm install")
    assert done.stderr.count("\n") == 1


def test_print_env_without_a_server_is_one_line(told: Path) -> None:
    done = run(told, "--print-env", "--port", str(free_port()))
    assert (done.returncode, done.stdout) == (1, "")
    assert "start one with `pensieve serve`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_is_started_where_none_is_and_stopped_afterwards(told: Path, tiny_model: Path) -> None:
    port = free_port()
    done = run(told, "--port", str(port), "--model", str(tiny_model), "--disk-cache-gb", "0", "-p", "hi")
    assert done.returncode == 7, done.stderr
    assert read(told)["arguments"] == ["--disallowedTools=WebSearch", "--bare", "-p", "hi"]
    assert read(told)["health"]["max_context"] == 8192
    assert "context  8,192 tokens" in done.stderr
    assert "Ready" not in done.stderr
    assert find_server(ServerConfig(port=port)) is None


@pytest.mark.slow
def test_a_server_of_ours_ends_with_us(told: Path, tiny_model: Path) -> None:
    port = free_port()
    flags = ("--port", str(port), "--model", str(tiny_model), "--disk-cache-gb", "0")
    with start(told, *flags, CLIENT_SLEEPS="60") as process:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert find_server(ServerConfig(port=port)) is None


def test_a_server_that_does_not_start_is_one_line(told: Path) -> None:
    done = run(told, "--port", str(free_port()), "--model", "/nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "pensieve: the server did not start: no such model folder: /nowhere"
    )
    assert not told.exists()


def test_a_server_that_is_ill_or_a_stranger_is_named(server: Server, told: Path) -> None:
    server.scheduler.engine_error = "three steps failed"
    assert "cannot answer requests (status 503)" in run(told, "--port", str(server.port)).stderr
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with start(told, "--port", str(port)) as process:
            connection, _ = stranger.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            connection.close()
            assert f"what answers at http://127.0.0.1:{port} is not Pensieve" in process.communicate()[1]


@pytest.mark.parametrize(
    ("max_context", "arguments", "flags"),
    [
        (45_000, (), []),
        (32_768, ("--continue",), ["--tools=Bash,Read,Edit,Write"]),
        (16_384, ("-p", "hi"), ["--bare"]),
        (16_384, ("--tools=Bash",), []),
        (16_384, ("-p", "hi", "--bare"), []),
    ],
)
def test_a_short_context_gets_a_prompt_that_leaves_room(
    max_context: int, arguments: tuple[str, ...], flags: list[str]
) -> None:
    """In 32,768 tokens the client compacted its full prompt again and again."""
    assert fitting_flags(max_context, arguments) == flags


def test_port_0_is_no_address(told: Path) -> None:
    assert "--port 0 names no server" in run(told, "--port", "0").stderr


@pytest.mark.parametrize(
    ("arguments", "ours", "theirs"),
    [
        ([], [], []),
        (["--port", "8000", "--continue"], ["--port", "8000"], ["--continue"]),
        (["--port=8000", "-p", "--port"], ["--port=8000"], ["-p", "--port"]),
        (["--print-env"], ["--print-env"], []),
        (["--", "--model", "opus"], [], ["--model", "opus"]),
        (["mcp", "list", "--model", "x"], [], ["mcp", "list", "--model", "x"]),
        (["--port"], ["--port"], []),
    ],
)
def test_the_first_unknown_word_ends_our_flags(
    arguments: list[str], ours: list[str], theirs: list[str]
) -> None:
    assert split_client_arguments(arguments) == (ours, theirs)
