"""The real client, used as people use it: in a terminal, with interrupts, commands and subagents."""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pensieve.api.command.client_environment import RunningServer, client_environment
from pensieve.scheduler.sequence import Request

from ..api.conftest import Server, running, wait_until
from ..fakes import ByteTokenizer, FakeModel, Script, ScriptedScheduler, ScriptedTokenStream
from .terminal import Terminal, make_home

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


@contextmanager
def session(claude: str, folder: Path, server: RunningServer, *flags: str) -> Iterator[Terminal]:
    """A user with a project of one file, whose client asks before each action; perhaps one who comes back."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "notes.txt").write_text("pear tree\n")
    variables = environment(folder, server)
    with Terminal([claude, "--permission-mode", "manual", *flags], project, variables) as terminal:
        terminal.wait_for("manual mode on")
        yield terminal


def environment(folder: Path, server: RunningServer) -> dict[str, str]:
    """The variables of a client in a folder's project, with a home folder beside it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(make_home(folder, folder / "project")),
        "TERM": "xterm-256color",
        "DISABLE_TELEMETRY": "1",
        **client_environment(server, None, {}),
    }


def num_running(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        return int(json.load(answer)["stats"]["num_running"])


def test_a_tool_call_and_the_context(server: str, claude: str, tmp_path: Path) -> None:
    """With the demo model."""
    with session(claude, tmp_path, RunningServer(server, "demo", 32_768), "--bare") as terminal:
        terminal.say("Run the command `echo plum` and report its output.")
        terminal.wait_for("● plum")
        terminal.say("/context")
        terminal.wait_for("Context usage")
        terminal.wait_for(r"/32\.8k tokens")


def test_an_interrupt_cancels_the_sequence(server: str, claude: str, tmp_path: Path) -> None:
    with session(claude, tmp_path, RunningServer(server, "demo", 32_768), "--bare") as terminal:
        terminal.say("Count from 1 to 900.")
        terminal.wait_for("1, 2, 3")
        terminal.press("Escape")
        pressed_s = time.monotonic()
        wait_until(lambda: not num_running(server))
        print(f"cancelled {1000 * (time.monotonic() - pressed_s):.0f} ms after Esc was sent to tmux")
        terminal.wait_for("Interrupted")


class Model(ScriptedScheduler):
    """Says what a model would that knows how to use subagents."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        super().__init__()
        self.turns: list[str] = []  # what it was asked last, request by request
        self.prompts: list[str] = []
        self.num_agents_at_once = 0
        self._tokenizer = tokenizer
        self._agents: list[ScriptedTokenStream] = []

    def submit(self, request: Request) -> ScriptedTokenStream:
        prompt = self._tokenizer.decode(request.prompt)
        # What names the day or the folder is a turn of its own behind the user's.
        turns = [turn for turn in prompt.split("<|im_start|>") if not turn.startswith("system\n")]
        turn = turns[-2]
        self.prompts.append(prompt)
        self.turns.append(turn)
        is_agent = "TASK-" in turn and turn.startswith("user")
        tokens = self._tokenizer.encode(reply(turn))
        chunks = [tokens[i : i + 4] for i in range(0, len(tokens), 4)]
        self.play(Script(chunks, delay_s=0.5 if is_agent else 0.01))
        generation = super().submit(request)
        if is_agent:
            self._agents.append(generation)
            at_once = [agent for agent in self._agents if agent.finish_reason is None]
            self.num_agents_at_once = max(self.num_agents_at_once, len(at_once))
        return generation


def reply(turn: str) -> str:
    """Answer the last turn of a prompt."""
    if "an <analysis> block followed by a <summary> block" in turn:
        return "<analysis>Short.</analysis>\n<summary>Two agents said apple and banana.</summary>"
    if "TASK-ONE" in turn and turn.startswith("user"):
        return "It says apple."
    if "TASK-TWO" in turn and turn.startswith("user"):
        return "It says banana."
    if "Ask two agents." in turn:
        return agent_call("ONE") + agent_call("TWO")
    if "What did they say?" in turn:
        return "Both have spoken."
    return "I see."


def agent_call(task: str) -> str:
    arguments = {"description": f"task {task}", "prompt": f"TASK-{task}", "subagent_type": "general-purpose"}
    return "<tool_call>" + json.dumps({"name": "Agent", "arguments": arguments}) + "</tool_call>"


@pytest.mark.slow
def test_two_subagents_at_once_then_compact(claude: str, tmp_path: Path) -> None:
    """With a scripted model behind the real API; the demo model knows nothing of agents and summaries."""
    tokenizer = ByteTokenizer()
    model = Model(tokenizer)
    server = Server(model=FakeModel(max_context=400_000), tokenizer=tokenizer, scheduler=model)
    with (
        running(server),
        session(claude, tmp_path, RunningServer(server.url, server.model.name, 300_000)) as terminal,
    ):
        terminal.say("Ask two agents.")
        terminal.wait_for('Agent "task ONE" finished')
        terminal.wait_for('Agent "task TWO" finished')
        wait_until(
            lambda: all(any(f"It says {word}." in p for p in model.prompts) for word in ("apple", "banana"))
        )
        assert model.num_agents_at_once == 2
        terminal.say("What did they say?")
        terminal.wait_for("Both have spoken")
        terminal.say("/compact")
        terminal.wait_for("Compacted")
        terminal.say("Go on.")
        wait_until(lambda: "Go on." in model.prompts[-1], timeout_s=30)
        assert "Two agents said apple and banana." in model.prompts[-1]
