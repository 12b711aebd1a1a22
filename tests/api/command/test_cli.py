"""The command as its users run it: one line for each failure, and a start and a stop that work."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from pensieve import __version__
from pensieve.api.command.cli import main

LOCAL = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1"}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pensieve", *arguments],
        env=inherited | LOCAL | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fail(*arguments: str, **environment: str) -> str:
    """Run `pensieve serve`, which is to fail; return its one line."""
    with start("serve", *arguments, **environment) as child:
        _, errors = child.communicate(timeout=60)
    return only_line(child.returncode, errors)


def only_line(code: int, errors: str) -> str:
    assert (code, errors[:10]) == (1, "pensieve: ")
    assert errors.count("\n") == 1, errors
    return errors.removeprefix("pensieve: ").strip()


SHELL = """
import json, sys
from pensieve.api.command.cli import main
for line in sys.stdin:
    print("code", main(json.loads(line)), flush=True)
"""


@pytest.fixture(scope="module")
def fail_again(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """As `fail`, but all in one process, which imports the server once."""
    errors = tmp_path_factory.mktemp("shell") / "errors"
    with (
        errors.open("a") as file,
        subprocess.Popen(
            [sys.executable, "-c", SHELL],
            env=os.environ | LOCAL,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as shell,
    ):

        def run(*arguments: str) -> str:
            assert shell.stdin is not None
            assert shell.stdout is not None
            os.truncate(errors, 0)
            print(json.dumps(["serve", *arguments]), file=shell.stdin, flush=True)
            code = next(line for line in shell.stdout if line.startswith("code "))
            return only_line(int(code.removeprefix("code ")), errors.read_text())

        yield run


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server that has said it is ready, and the lines that it said."""
    with start("serve", "--port", "0", "--disk-cache-gb", "0", *arguments, **environment) as child:
        assert child.stdout is not None
        lines: list[str] = []
        try:
            for line in child.stdout:
                lines.append(line.strip())
                if line.split()[:1] == ["claude"]:
                    break
            else:
                pytest.fail(f"the server did not start: {child.stderr and child.stderr.read()}")
            yield child, lines
        finally:
            child.kill()


def exported(lines: list[str]) -> dict[str, str]:
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


def message(lines: list[str], key: str = "any", **body: object) -> urllib.request.Request:
    """A request to the server that said `lines`."""
    content = {"model": "claude-test", "messages": [{"role": "user", "content": "hi"}]} | body
    headers = {"content-type": "application/json", "x-api-key": key, "anthropic-version": "2023-06-01"}
    url = exported(lines)["ANTHROPIC_BASE_URL"]
    return urllib.request.Request(f"{url}/v1/messages", json.dumps(content).encode(), headers)


def test_a_bad_flag_is_one_line() -> None:
    assert fail("--port", "x").startswith("argument --port: invalid int value: 'x'")


def test_help_names_every_flag_and_default() -> None:
    with start("serve", "--help") as child:
        text, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert all(word in text for word in ("--model", "--kv-cache-gb", "--max-batch", "(default: 7777)"))


def test_version() -> None:
    with start("--version") as child:
        said = child.communicate(timeout=60)[0]
    assert said == f"pensieve {__version__} (mlx {version('mlx')}, mlx-lm {version('mlx-lm')})\n"


def test_bash_completes_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, wanted in ((["do"], "doctor"), (["serve", "--kv-b"], "--kv-bits")):
        line = f"COMP_WORDS=(pensieve {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_pensieve"
        shell = subprocess.run(
            ["bash", "-c", f'{script}\n{line}; echo "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert wanted in shell.stdout.split()


def test_help_does_not_load_mlx() -> None:
    script = "import sys; import pensieve.api.command.cli; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_taken_port_is_named(fail_again: Callable[..., str], tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert fail_again("--model", str(tiny_model), "--port", port).startswith(f"port {port} is taken")


def test_a_foreign_address_is_named(fail_again: Callable[..., str]) -> None:
    for host in ("192.0.2.1", "nowhere.invalid"):
        assert fail_again("--host", host, "--api-key", "k").startswith(f"cannot listen on {host}: ")


def test_no_such_folder(tmp_path: Path) -> None:
    assert fail("--model", f"{tmp_path}/gone", "--port", "0") == f"no such model folder: {tmp_path}/gone"


def test_an_incomplete_folder_names_the_file(fail_again: Callable[..., str], tmp_path: Path) -> None:
    assert fail_again("--model", str(tmp_path), "--port", "0") == f"{tmp_path}/config.json is missing"


def test_an_unreachable_hub_points_at_the_demo(tmp_path: Path) -> None:
    said = fail("--model", "someone/model", "--port", "0", HF_HOME=str(tmp_path))
    assert said.startswith("the hub cannot be reached for someone/model")
    assert "--model demo" in said


def test_too_little_memory_says_how_much_is_missing(fail_again: Callable[..., str], tiny_model: Path) -> None:
    said = fail_again("--model", str(tiny_model), "--port", "0", "--kv-cache-gb", "90000")
    assert said.startswith("not enough memory: --kv-cache-gb 90000 is ")


def test_a_model_that_breaks_while_loading_is_one_line(
    fail_again: Callable[..., str], tmp_path: Path, tiny_model: Path
) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    assert "cannot be loaded: " in fail_again("--model", str(tmp_path), "--port", "0")


def test_debug_shows_where_it_failed(tmp_path: Path) -> None:
    with start("serve", "--model", f"{tmp_path}/gone", "--port", "0", "--log-level", "debug") as child:
        _, errors = child.communicate(timeout=60)
    assert "Traceback" in errors


def test_a_server_says_its_plan_answers_and_stops(tiny_model: Path) -> None:
    with serving("--model", str(tiny_model)) as (child, lines):
        said = exported(lines)
        assert any(line.startswith("KV ") and "1,536 bytes a token" in line for line in lines)
        assert said["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "8192"
        assert said["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "1024"
        assert said["ANTHROPIC_MODEL"] == str(tiny_model)
        assert lines[-1] == "claude --bare"
        assert said["ANTHROPIC_API_KEY"] == "pensieve-local-key"
        with urllib.request.urlopen(message(lines, max_tokens=3), timeout=30) as response:
            assert json.load(response)["usage"]["output_tokens"] <= 3
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0


def test_the_key_is_not_printed(tiny_model: Path) -> None:
    with serving("--model", str(tiny_model), "--api-key", "secret") as (_, lines):
        assert "secret" not in "\n".join(lines)
        with urllib.request.urlopen(message(lines, key="secret", max_tokens=1), timeout=30) as response:
            assert response.status == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_answers(tiny_model: Path, number: signal.Signals) -> None:
    """A stream that merely stops looks like success to clients, so it must end with an error event."""
    with serving("--model", str(tiny_model)) as (child, lines):
        with urllib.request.urlopen(message(lines, max_tokens=8000, stream=True), timeout=30) as response:
            first = response.readline()
            child.send_signal(number)
            rest = response.read()
        assert first == b"event: message_start\n"
        assert b"event: error" in rest or b"event: message_stop" in rest
        assert rest.count(b"event: content_block_delta") < 7000, "it ran to its own end"
        assert child.wait(timeout=30) == 0
