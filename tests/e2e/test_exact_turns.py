"""A session of the real Claude Code, whose every prompt begins with all tokens of the turn before."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pensieve.bench.claude import Session
from pensieve.scheduler.sequence import Request

from ..api import tokenizers
from ..api.conftest import Server, running
from ..fakes import FakeModel, Script, ScriptedScheduler, ScriptedTokenStream

NUM_TURNS = 20
PIECES = re.compile("(<tool_call>|</tool_call>|.)", re.DOTALL)


class Letters(ScriptedScheduler):
    """Answers the last cue of a prompt, letter by letter: no tokenizer would cut a text so.

    answers: by their cues. sampled: the tokens of all answers so far.
    """

    def __init__(self, tokenizer: Any, answers: dict[str, str]) -> None:
        super().__init__()
        self.sampled: list[list[int]] = []
        self._tokenizer = tokenizer
        self._answers = answers

    def submit(self, request: Request) -> ScriptedTokenStream:
        prompt = self._tokenizer.decode(request.prompt)
        answer = self._answers[max(self._answers, key=prompt.rfind)]
        pieces = [piece for piece in PIECES.split(answer) if piece]
        encode = self._tokenizer.encode
        tokens = [token for piece in pieces for token in encode(piece, add_special_tokens=False)]
        self.sampled.append(tokens)
        self.play(Script([tokens[i : i + 9] for i in range(0, len(tokens), 9)]))
        return super().submit(request)


def call(name: str, **arguments: Any) -> str:
    body = json.dumps({"arguments": arguments, "name": name}, separators=(",", ":"))
    return f"<tool_call>\n{body}\n</tool_call>"


def tool_turns(folder: Path) -> dict[str, str]:
    """Return answers by their cues: each calls a tool whose result is the next one's cue."""
    answers: dict[str, str] = {}
    cue = "Begin."
    for turn in range(NUM_TURNS):
        note = folder / f"note-{turn - turn % 3}.txt"
        note.touch()
        match turn % 3:
            case 0:
                command = f"cd {folder} && echo first-{turn} > {note.name}; echo ran-''{turn}"
                answers[cue] = call("Bash", timeout="5000", description="Writes a note", command=command)
                cue = f"ran-{turn}"
            case 1:
                answers[cue] = "I read it.\n" + call("Read", limit="5", file_path=str(note))
                cue = f"first-{turn - 1}"
            case _:
                old, new = f"first-{turn - 2}", f"changed by turn {turn}"
                answers[cue] = call("Edit", new_string=new, old_string=old, file_path=str(note))
                cue = f"{note.name} has been updated"
    return answers | {cue: "All is done."}


@pytest.mark.slow
def test_each_prompt_of_twenty_tool_turns_extends_the_one_before(claude: str) -> None:
    tokenizer = tokenizers.demo()
    facts = FakeModel(max_context=400_000, vocab_size=10**6, eos_token_ids=frozenset(tokenizer.eos_token_ids))
    with Session("", claude) as session:
        model = Letters(tokenizer, tool_turns(session.project))
        with running(Server(model=facts, tokenizer=tokenizer, scheduler=model)) as server:
            session.url = server.url
            reply = session.ask("Begin.")
    assert reply.text == "All is done."
    prompts = [request.prompt for request in model.requests]
    assert len(prompts) == NUM_TURNS + 1
    rewritten = [arguments for name, arguments in reply.calls if name == "Edit"]
    assert all("replace_all" in arguments for arguments in rewritten)
    for turn, (before, sampled, after) in enumerate(zip(prompts, model.sampled, prompts[1:], strict=False)):
        assert after[: len(before) + len(sampled)] == before + sampled, turn
