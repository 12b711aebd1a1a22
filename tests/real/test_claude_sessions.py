"""The real Claude Code on models' own templates: calls, interrupts and new words, /compact, resumed sessions.

The answers are written beforehand, in the form in which each family writes them.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pensieve.api.command.client_environment import RunningServer
from pensieve.engine.loading.model_info import read_model_info
from pensieve.engine.loading.tokenizer import load_tokenizer

from ..api.conftest import Server, running, wait_until
from ..budget import trials
from ..e2e.conftest import claude
from ..e2e.cued_model import CuedModel
from ..e2e.terminal import Terminal
from ..e2e.test_interactive import environment, session
from ..fakes import FakeModel
from .real_pairs import PAIRS, write_pair
from .templates_on_disk import REASON, data_folder

__all__ = ["claude"]

NUM_FAMILIES = trials(1, 2, "PENSIEVE_REAL_CASES")  # a session takes 15 s

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.skipif(not data_folder().exists(), reason=REASON),
]


@dataclass(frozen=True)
class Family:
    """How a model writes thoughts (perhaps begun in the prompt), a text and a call; `{}` stand for theirs."""

    template: str
    thought: str
    call: str
    text: str = "{}"

    def answer(self, text: str, command: str = "") -> str:
        """Write a thought, a text and perhaps the call of a command."""
        arguments = self._arguments(command) if command else ""
        return (
            self.thought.replace("{}", "Let me think.")
            + self.text.replace("{}", text)
            + (self.call.replace("{}", arguments) if command else "")
        )

    def _arguments(self, command: str) -> str:
        return command if "<parameter=" in self.call else json.dumps({"command": command})


FAMILIES = [
    Family("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]{}[/THINK]", "[TOOL_CALLS]Bash[ARGS]{}"),
    Family(
        "openai-gpt-oss-120b",
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant",
        "<|end|><|start|>assistant<|channel|>commentary to=functions.Bash "
        "<|constrain|>json<|message|>{}<|call|>",
        "<|channel|>final<|message|>{}",
    ),
    Family(
        "Qwen3.5-4B",
        "{}\n</think>\n\n",
        "\n\n<tool_call>\n<function=Bash>\n<parameter=command>\n{}\n</parameter>\n</function>\n</tool_call>",
    ),
    Family("Mistral-Small-3.2-24B-Instruct-2506", "", "[TOOL_CALLS]Bash[CALL_ID]a1b2c3d4e[ARGS]{}"),
]

BEFORE = [
    *("Run it.", "One moment.", "echo ripe-pl''um", "ripe-plum", "It said: plum.", "Run it slowly."),
    *("This takes long.", "touch begun", "[Request interrupted by user for tool use]", "Rather an apple."),
    *("An apple it is.", "Tell a story.", "Once upon a time", "[Request interrupted by user]"),
    *("Shorter, please.", "They lived happily."),
]
"""What stands in the conversation before it is compacted."""


def answers(family: Family) -> dict[str, str]:
    """Return the model's answers by the last words that it reads."""
    answer = family.answer
    return {
        "Run it.": answer("One moment.", "echo ripe-pl''um"),
        "ripe-plum": answer("It said: plum."),
        "Run it slowly.": answer("This takes long.", "touch begun; tail -f /dev/null"),
        "Rather an apple.": answer("An apple it is."),
        "Tell a story.": answer("Once upon a time " * 500),
        "Shorter, please.": answer("They lived happily."),
        "an <analysis> block": answer("<analysis>Short.</analysis><summary>A plum, an apple.</summary>"),
        "Go on.": answer("I go on."),
        "Still there?": answer("Still here."),
        "In print?": answer("In print as well."),
        "By name?": answer("By name as well."),
    }


@pytest.mark.parametrize("family", FAMILIES[:NUM_FAMILIES], ids=lambda family: family.template)
def test_a_session_with_interrupts_compacted_and_resumed(family: Family, claude: str, tmp_path: Path) -> None:
    folder = write_pair(tmp_path / "model", family.template, PAIRS[family.template])
    info = read_model_info(folder, "m", None, 16)
    tokenizer = load_tokenizer(info)
    model = CuedModel(tokenizer, answers(family))
    facts = FakeModel(max_context=400_000, vocab_size=info.vocab_size, eos_token_ids=info.eos_token_ids)
    server = Server(model=facts, tokenizer=tokenizer, scheduler=model)
    with running(server):
        place = RunningServer(server.url, facts.name, 300_000)
        with session(claude, tmp_path, place, "--allowedTools", "Bash") as terminal:
            interrupted_session(terminal, server, tmp_path / "project" / "begun")
            terminal.say("/compact")
            terminal.wait_for("Compacted")
            terminal.say("Go on.")
            terminal.wait_for("● I go on")
        with session(claude, tmp_path, place, "--allowedTools", "Bash", "--continue") as terminal:
            terminal.wait_for("● I go on")
            terminal.say("Still there?")
            terminal.wait_for("● Still here")
        (kept,) = (tmp_path / "home").glob(".claude/projects/*/*.jsonl")  # one conversation throughout
        command = [claude, "--resume", kept.stem, "-p", "In print?"]
        variables = environment(tmp_path, place)
        printed = subprocess.run(
            command, cwd=tmp_path / "project", env=variables, capture_output=True, text=True, timeout=120
        )
        assert printed.stdout.strip() == "In print as well."
        with session(claude, tmp_path, place, "--resume", kept.stem) as terminal:
            terminal.wait_for("● In print as well")
            terminal.say("By name?")
            terminal.wait_for("● By name as well")
        assert "pensieve_requests_rejected_total{" not in server.http().get("/metrics").text
    *_, compaction, after, continued, in_print, resumed = model.prompts
    assert_in_order(compaction, *BEFORE, "an <analysis> block")
    for prompt in (after, continued, in_print, resumed):
        assert "A plum, an apple." in prompt
        assert "An apple it is." not in prompt
    words = (
        "Go on.",
        "I go on.",
        "Still there?",
        "Still here.",
        "In print?",
        "In print as well.",
        "By name?",
    )
    for prompt, num_words in ((continued, 3), (in_print, 5), (resumed, 7)):
        assert_in_order(prompt, *words[:num_words])


def interrupted_session(terminal: Terminal, server: Server, begun: Path) -> None:
    """Let a command run, interrupt a command and an answer, and say something else each time."""
    terminal.say("Run it.")
    terminal.wait_for("● It said: plum")
    terminal.say("Run it slowly.")
    wait_until(begun.exists, timeout_s=60)
    terminal.press("Escape")
    terminal.wait_for("Interrupted")
    terminal.say("Rather an apple.")
    terminal.wait_for("● An apple it is")
    terminal.say("Tell a story.")
    terminal.wait_for("● Once upon")
    terminal.press("Escape")
    wait_until(lambda: server.scheduler.stats().num_running == 0)
    terminal.say("Shorter, please.")
    terminal.wait_for("● They lived happily")


def assert_in_order(prompt: str, *texts: str) -> None:
    places = [prompt.find(text) for text in texts]
    assert -1 not in places, [text for text, place in zip(texts, places, strict=True) if place < 0]
    assert places == sorted(places)
