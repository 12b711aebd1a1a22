"""Text that the model must look past: tool schemas, system prompts, reminders, all drawn at random.

Much of it reads like a request, since real prompts are full of imperatives that are not for now.
"""

import random
from collections import abc
from typing import Any

from pensieve.scripts.demo_model.chatter import IDENTITIES
from pensieve.scripts.demo_model.tasks import Tasks
from pensieve.scripts.demo_model.words import Words, vocabulary

TOOL_NAMES = vocabulary(
    "Write Grep Glob Search Fetch Task Agent Skill List Todo Notebook Plan Monitor Schedule Report Send"
)
TYPES = ("string", "string", "number", "integer", "boolean")

# The three tools that the tasks use; the words that describe them are drawn at random.
CORE_TOOLS: dict[str, abc.Sequence[tuple[str, str]]] = {
    "Bash": (("command", "string"), ("timeout", "number"), ("description", "string")),
    "Edit": (
        ("file_path", "string"),
        ("old_string", "string"),
        ("new_string", "string"),
        ("replace_all", "boolean"),
    ),
    "Read": (("file_path", "string"), ("offset", "integer"), ("limit", "integer")),
}


class Distractors:
    """Draws distracting text; `lines` are lines of real text, consecutive ones belonging together."""

    def __init__(self, rng: random.Random, lines: abc.Sequence[str]) -> None:
        self.rng = rng
        self.lines = lines
        self.words = Words(rng, lines)

    def prose(self, low: int, high: int) -> str:
        """Consecutive lines of real text."""
        count = self.rng.randint(low, high)
        start = self.rng.randrange(max(1, len(self.lines) - count))
        return "\n".join(self.lines[start : start + count])

    def sample_request(self) -> str:
        """Draw a request that belongs to nobody, quoted as an example or an instruction."""
        request = Tasks(self.rng, self.words).turn().request
        forms = ("{}", " - {}", 'For example: "{}"', "If the user says `{}`, do so.", "Never do this: {}")
        return self.rng.choice(forms).format(request)

    def passage(self) -> str:
        """Draw some lines of one kind: prose, a list, an example request, settings."""
        rng, words = self.rng, self.words
        style = rng.random()
        if style < 0.5:
            return self.prose(1, 12)
        if style < 0.65:
            return "\n".join(f" - {words.real_line()}" for _ in range(rng.randint(1, 8)))
        if style < 0.8:
            return self.sample_request()
        if style < 0.9:
            return f"# {words.plain().capitalize()}\n{self.prose(1, 6)}"
        return "\n".join(words.block(rng.randint(1, 10)))

    def environment(self) -> str:
        """Where the session runs, in one of the client's two forms or near it."""
        rng, folder = self.rng, self.words.absolute_folder()
        date = f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        if rng.random() < 0.6:
            return f"CWD: {folder}\nDate: {date}"
        facts = [
            f"Primary working directory: {folder}",
            "Is a git repository: false",
            "Platform: linux",
            "Shell: bash",
        ]
        return "# Environment\n" + "\n".join(f" - {fact}" for fact in facts) + f"\n\nToday's date is {date}."

    def system(self, size: int) -> str:
        """Draw a system prompt of about `size` characters."""
        parts = [self.rng.choice(IDENTITIES)] if self.rng.random() < 0.85 else []
        while sum(map(len, parts)) < size:
            parts.append(self.passage())
        if self.rng.random() < 0.85:
            parts.insert(self.rng.randint(0, 1) * len(parts), self.environment())
        return "\n\n".join(parts)

    def reminder(self) -> str:
        """Draw a block that the client puts into the user's turn."""
        parts = [self.passage() for _ in range(self.rng.choice((1, 1, 2, 4)))]
        return "<system-reminder>\n" + "\n".join(parts) + "\n</system-reminder>"

    def property(self, kind: str) -> dict[str, Any]:
        """Draw one property of a schema."""
        rng = self.rng
        fields: dict[str, Any] = {
            "description": self.prose(1, rng.choice((1, 1, 2, 6))).strip(),
            "type": kind,
        }
        if rng.random() < 0.1:
            fields["default"] = False
        if rng.random() < 0.1:
            fields |= {"minimum": rng.randint(0, 9), "maximum": 9007199254740991}
        return fields

    def tool(self, name: str, size: int) -> dict[str, Any]:
        """Draw a tool whose description has up to `size` lines."""
        pairs = CORE_TOOLS.get(name) or [
            (self.words.identifier(), self.rng.choice(TYPES)) for _ in range(self.rng.randint(0, 6))
        ]
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {key: self.property(kind) for key, kind in pairs},
            "required": [key for key, _ in pairs[:1]],
            "additionalProperties": False,
        }
        text = self.prose(1, size) if self.rng.random() < 0.8 else self.passage()
        return {"name": name, "description": text.strip(), "parameters": schema}

    def tools(self, size: int, extra: int) -> list[dict[str, Any]]:
        """Draw the three tools and up to `extra` others, sorted by name as the client sorts them."""
        others = self.rng.sample(TOOL_NAMES, self.rng.randint(0, extra))
        return [self.tool(name, size) for name in sorted([*CORE_TOOLS, *others])]
