"""The real Codex CLI on a scripted engine: the Responses API is its only way in.

The demo model knows Claude Code's tools only, and Codex's first prompt is long for it: here the answers are
written beforehand, and the client, its tools and all between it and the engine are real.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..api.conftest import Server, StartServer, start_server
from ..fakes import ByteTokenizer, FakeModel

__all__ = ["start_server"]

MODEL = (
    "gpt-5.5"  # Codex knows its tools: besides functions a custom one with a grammar, and a search for tools
)
PATCH = "*** Begin Patch\n*** Add File: fruit.txt\n+plum\n*** End Patch\n"

CONFIG = """\
{setting}
model = "{model}"
model_provider = "pensieve"
sandbox_mode = "danger-full-access"
[model_providers.pensieve]
name = "Pensieve"
base_url = "{url}/v1"
wire_api = "responses"
"""


@pytest.fixture
def codex() -> str:
    """Path of the client. In CI it must be there; elsewhere its absence skips the test."""
    path = os.environ.get("PENSIEVE_CODEX") or shutil.which("codex")
    if path is None and not os.environ.get("CI"):
        pytest.skip("Codex CLI is not installed; PENSIEVE_CODEX may name it")
    assert path is not None, "CI must install Codex CLI and name it in PENSIEVE_CODEX"
    return path


class Client:
    """A Codex with a home and a project of its own."""

    def __init__(self, codex: str, folder: Path, server: Server, setting: str = "") -> None:
        self._codex = codex
        self._home, self.project = folder / "home", folder / "project"
        self._home.mkdir()
        self.project.mkdir()
        (self._home / "config.toml").write_text(CONFIG.format(setting=setting, model=MODEL, url=server.url))

    def ask(self, *words: str) -> list[dict[str, object]]:
        """Run `codex exec` and return the items that it reports."""
        done = subprocess.run(
            [self._codex, "exec", "--skip-git-repo-check", "--json", *words],
            cwd=self.project,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "CODEX_HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return [event["item"] for event in events if event["type"] == "item.completed"]


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.slow
def test_codex_runs_commands_patches_files_and_goes_on(
    codex: str, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(model=FakeModel(name=MODEL), tokenizer=ByteTokenizer(thinks=True))
    answers = [
        "<think>\nI run it.\n</think>\n\nOne moment." + call("exec_command", cmd="echo plu''m"),
        call("apply_patch", input=PATCH) + call("tool_search", query="spawn agents"),
        "It is a plum.",
        "Still a plum.",
    ]
    server.scheduler.play(*(server.script(answer, size=50) for answer in answers))
    client = Client(codex, tmp_path, server)

    items = client.ask("Run `echo plum`, and write it down.")

    assert [item["type"] for item in items] == [
        "agent_message",
        "command_execution",
        "file_change",
        "agent_message",
    ]
    assert items[1]["aggregated_output"] == "plum\n"
    assert (client.project / "fruit.txt").read_text() == "plum\n"
    assert client.ask("resume", "--last", "Are you sure?")[-1]["text"] == "Still a plum."
    prompts = [server.prompt_text(i).removesuffix("<|im_start|>assistant\n") for i in range(4)]
    for i in range(1, 4):
        assert prompts[i].startswith(prompts[i - 1])
    shown = prompts[3].replace("\n<tool_call>", "<tool_call>")
    for text in (*answers[:3], "Are you sure?", "Output:\nplum\n", '"name": "multi_agent_v1__spawn_agent"'):
        bare = text.replace("<think>\n", "<think>").replace("\n</think>\n\n", "</think>")
        assert bare.replace("\n<tool_call>", "<tool_call>") in shown


@pytest.mark.slow
def test_codex_compacts_a_conversation_whose_prompt_is_cached(
    codex: str, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(model=FakeModel(name=MODEL))
    answers = [call("exec_command", cmd="echo plum"), "The fruit is a plum.", "Done."]
    server.scheduler.play(*(server.script(answer, size=50) for answer in answers))
    client = Client(codex, tmp_path, server, "model_auto_compact_token_limit = 20000")
    assert client.ask("Run `echo plum`.")[-1]["text"] == "Done."
    first, compaction, after = (server.prompt_text(i) for i in range(3))
    assert "CONTEXT CHECKPOINT COMPACTION" in compaction
    assert compaction.startswith(first.removesuffix("<|im_start|>assistant\n"))
    assert "The fruit is a plum." in after
