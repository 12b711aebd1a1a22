"""A client that sends the model's replies back as Claude Code does, which rewrites calls of some tools."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from pensieve.api.answer_options import answer_options
from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieve.api.prompt.prompt import Prompt, PromptBuilder
from pensieve.api.schema import CountTokensRequest

Arguments = dict[str, Any]


def tool(name: str, **properties: Any) -> Arguments:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"name": name, "description": f"{name}s.", "input_schema": schema}


STRING = {"type": "string"}
BASH = tool("Bash", command=STRING, timeout={"type": "number"}, description=STRING)
EDIT = tool(
    "Edit",
    file_path=STRING,
    old_string=STRING,
    new_string=STRING,
    replace_all={"type": "boolean", "default": False},
)
WRITE = tool("Write", file_path=STRING, content=STRING)
TOOLS = [BASH, EDIT, WRITE]

ENVIRONMENT = """# Environment
You have been invoked in the following environment:
 - Primary working directory: /home/u/p
 - Is a git repository: false"""

OLD = {"file_path": "/a/b.py", "old_string": "x = 1", "new_string": "x = 2"}

REWRITES: dict[str, tuple[str, Arguments, Arguments]] = {
    "nothing": ("Bash", {"command": "ls -l"}, {"command": "ls -l"}),
    "a default is added": ("Edit", OLD, {"replace_all": False, **OLD}),
    "keys are sorted": ("Edit", dict(reversed(OLD.items())), {"replace_all": False, **OLD}),
    "a key has another name": ("Edit", {"file_path": "/a/b.py", "old_str": "x = 1", "new_str": "x = 2"}, OLD),
    "an unknown key is dropped": ("Edit", {**OLD, "why": "It is wrong."}, OLD),
    "the folder is taken off": ("Bash", {"command": "cd /home/u/p && ls -l"}, {"command": "ls -l"}),
    "a number loses its quotes": (
        "Bash",
        {"command": "ls", "timeout": "5000"},
        {"command": "ls", "timeout": 5000},
    ),
    "a semicolon is escaped once": ("Bash", {"command": "ls {} \\\\;"}, {"command": "ls {} \\;"}),
    "white space at line ends is taken off": (
        "Write",
        {"file_path": "/a", "content": "one  \ntwo\t\n"},
        {"file_path": "/a", "content": "one\ntwo\n"},
    ),
}
"""What the client does to a call: the tool, the model's arguments and the client's."""

EDITS: dict[str, tuple[str, Arguments, Arguments]] = {
    "another command": ("Bash", {"command": "ls -l"}, {"command": "ls -a"}),
    "another folder before the command": ("Bash", {"command": "ls"}, {"command": "cd /home && ls"}),
    "a folder that is not the session's": ("Bash", {"command": "cd /tmp && ls"}, {"command": "ls"}),
    "white space in a Markdown file": (
        "Write",
        {"file_path": "/a.MD", "content": "one  \n"},
        {"file_path": "/a.MD", "content": "one\n"},
    ),
    "a folder that a shell would expand": ("Bash", {"command": "cd $HOME && ls"}, {"command": "ls"}),
    "more than the folder is taken off": ("Bash", {"command": "cd /a && make && ls"}, {"command": "ls"}),
    "a value that is no default": ("Edit", OLD, {"replace_all": True, **OLD}),
    "a key is missing": ("Edit", OLD, {"file_path": "/a/b.py", "old_string": "x = 1"}),
    "another number": ("Bash", {"command": "ls", "timeout": "5000"}, {"command": "ls", "timeout": 6000}),
    "a switch for a number": ("Bash", {"command": "ls", "timeout": 1}, {"command": "ls", "timeout": True}),
    "white space within a line": ("Bash", {"command": "a  b"}, {"command": "a b"}),
    "white space at the end of a command": ("Bash", {"command": "a "}, {"command": "a"}),
    "another text in a file": ("Write", {"content": "one\n"}, {"content": "two\n"}),
}
"""Changes that no client makes by itself."""


@dataclass
class Conversation:
    """A conversation: it builds prompts, keeps the model's replies, and sends them back rewritten."""

    builder: PromptBuilder
    rng: random.Random
    messages: list[Arguments] = field(default_factory=list)
    owner: bytes = b"me"
    options: Arguments = field(default_factory=dict)
    num_calls: int = 0

    def ask(self, words: str) -> Prompt:
        self.messages.append({"role": "user", "content": words})
        return self.prompt()

    def prompt(self, builder: PromptBuilder | None = None, owner: bytes | None = None) -> Prompt:
        body = {
            "model": "m",
            "system": f"Be brief.\n\n{ENVIRONMENT}",
            "tools": TOOLS,
            "messages": self.messages,
            **self.options,
        }
        request = CountTokensRequest.model_validate(body)
        options = answer_options(request)
        return (builder or self.builder).build_now(request, options, self.owner if owner is None else owner)

    def reply(
        self,
        prompt: Prompt,
        text: str = "",
        thoughts: str = "",
        calls: tuple[str, ...] = (),
        tokens: list[int] | None = None,
    ) -> list[int]:
        """Let the model reply with some tokens, and take over what the client makes of the reply."""
        events: list[OutputEvent] = []
        blocks: list[Arguments] = []
        if thoughts:
            events.append(ThinkingDelta(thoughts))
            blocks.append({"type": "thinking", "thinking": thoughts, "signature": "s"})
        if text:
            events.append(TextDelta(text))
            blocks.append({"type": "text", "text": text})
        results: list[Arguments] = []
        for name in calls:
            tool_name, made, sent = (REWRITES | EDITS)[name]
            self.num_calls += 1
            call_id = f"toolu_{self.num_calls:024x}"
            events += [ToolCallStart(tool_name, call_id), ArgumentsDelta(json.dumps(made)), ToolCallEnd()]
            blocks.append({"type": "tool_use", "id": call_id, "name": tool_name, "input": sent})
            results.append({"type": "tool_result", "tool_use_id": call_id, "content": f"r{self.num_calls}"})
        tokens = tokens or [self.rng.randrange(200) for _ in range(self.rng.randint(1, 30))]
        if prompt.keeper is not None:
            prompt.keeper.keep(tokens, events)
        self.messages.append({"role": "assistant", "content": blocks})
        if results:
            self.messages.append({"role": "user", "content": results})
        return tokens


def draw_reply(rng: random.Random, most_calls: int = 2) -> tuple[str, tuple[str, ...]]:
    """Draw a reply's text and its calls; one of both at least."""
    num_calls = min(rng.choice([0, 1, 1, 1, 2]), most_calls)
    calls = tuple(rng.choice(list(REWRITES)) for _ in range(num_calls))
    text = rng.choice(["", "Now I look.", " Two\nlines. "]) if calls else rng.choice(["Done.", "It is so."])
    return text, calls
