"""Other clients on a scripted engine: the AI SDK of Vercel, opencode and aider each do a task.

PENSIEVE_AI_SDK names a folder whose node_modules have `ai`, `zod`, `@ai-sdk/anthropic`, `@ai-sdk/openai` and
`@ai-sdk/openai-compatible`; CI has it. opencode and aider are large: PENSIEVE_OPENCODE and PENSIEVE_AIDER
name their programs where somebody has installed them, and their tests skip elsewhere, in CI too.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..api.conftest import Server, running
from ..fakes import ByteTokenizer, FakeModel
from .cued_model import CuedModel

pytestmark = pytest.mark.slow

THOUGHT = "<think>\nI look.\n</think>\n\n"


def named_by(variable: str, in_ci: bool = False) -> str:
    """Return what an environment variable names; without it the test skips, or fails in CI if it must run."""
    name = os.environ.get(variable)
    if name is None:
        assert not (in_ci and "CI" in os.environ), f"{variable} is needed"
        pytest.skip(f"{variable} is not set")
    return name


def cued_server(answers: dict[str, str]) -> Server:
    tokenizer = ByteTokenizer(thinks=True)
    return Server(model=FakeModel(name="demo"), tokenizer=tokenizer, scheduler=CuedModel(tokenizer, answers))


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Run a client in a folder and a home of its own; return what it prints."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "xterm", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes.txt").write_text("pear tree\n")
    return folder


def test_the_ai_sdk_calls_a_tool_in_a_loop_by_all_three_apis(project: Path) -> None:
    packages = Path(named_by("PENSIEVE_AI_SDK", in_ci=True)) / "node_modules"
    (project / "node_modules").symlink_to(packages)
    script = shutil.copy(Path(__file__).with_name("ai_sdk.mjs"), project)
    answers = {
        "Which fruit is blue?": THOUGHT + "I look it up." + call("fruit", colour="blue"),
        "ripe-plum": THOUGHT + "It is a plum.",
        "Are you sure?": "Quite sure.",
        "An object, please.": json.dumps({"fruit": "plum"}),
    }
    with running(cued_server(answers)) as server:
        lines = run(["node", str(script), server.url], project).splitlines()
    found = [json.loads(line) for line in lines]
    assert [answer.pop("name") for answer in found] == ["anthropic", "chat", "responses"]
    for answer in found:
        assert min(answer.pop("tokens")) > 0
        assert answer == {
            "whole": "It is a plum.",
            "streamed": "I look it up.It is a plum.",
            "more": "Quite sure.",
            "object": {"fruit": "plum"},
        }


@pytest.mark.parametrize("package", ["@ai-sdk/openai-compatible", "@ai-sdk/anthropic"])
def test_opencode_edits_a_file_runs_a_command_and_goes_on(package: str, project: Path) -> None:
    opencode = named_by("PENSIEVE_OPENCODE")
    path = str(project / "notes.txt")
    answers = {
        "Make it a plum.": THOUGHT + "One moment." + call("read", filePath=path),
        "1: pear tree": call("edit", filePath=path, oldString="pear", newString="plum")
        + call("bash", command="echo ripe-pl''um", description="say it"),
        "ripe-plum": "It is a plum tree now.",
        "Are you sure?": "Quite sure.",
    }
    with running(cued_server(answers)) as server:
        provider = {
            "npm": package,
            "name": "Pensieve",
            "options": {"baseURL": f"{server.url}/v1", "apiKey": "local"},
            "models": {"demo": {"limit": {"context": 100_000, "output": 8192}}},
        }
        config = {"provider": {"pensieve": provider}, "model": "pensieve/demo", "autoupdate": False}
        (project / "opencode.json").write_text(json.dumps(config))
        assert "It is a plum tree now." in run([opencode, "run", "Make it a plum."], project)
        assert "Quite sure." in run([opencode, "run", "--continue", "Are you sure?"], project)
    assert (project / "notes.txt").read_text() == "plum tree\n"


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_aider_edits_a_file(api: str, project: Path) -> None:
    aider = named_by("PENSIEVE_AIDER")
    edit = "notes.txt\n```\n<<<<<<< SEARCH\npear tree\n=======\nplum tree\n>>>>>>> REPLACE\n```\n"
    with running(cued_server({"Make it a plum.": THOUGHT + "I edit it.\n\n" + edit})) as server:
        url = server.url if api == "anthropic" else f"{server.url}/v1"
        variables = {f"{api.upper()}_API_BASE": url, f"{api.upper()}_API_KEY": "local"}
        flags = ["--yes-always", "--no-git", "--no-check-update", "--analytics-disable"]
        words = ["--message", "Make it a plum.", "notes.txt"]
        flags += ["--no-show-model-warnings", "--edit-format", "diff", "--model", f"{api}/demo"]
        run([aider, *flags, *words], project, **variables)
    assert (project / "notes.txt").read_text() == "plum tree\n"
