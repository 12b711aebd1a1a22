"""The synthetic conversations: what a user may ask, and what the model then does.

Each maker draws one `Turn`: a request, and the calls, results and words that follow it. The forms of results and
calls are those that Claude Code sends and sends back. Knows nothing of tokens.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pensieve.engine.demo import wordings
from pensieve.engine.demo.words import Words

WHO = "I am the demo model of Pensieve: a toy that can run a command, read a file and edit a file."
HELLO = "Hello! I can run a command, read a file or edit a file for you."
THANKS = "You are welcome."
FALLBACK = (
    "I am only a small demo model. Ask me to run a command, read a file, replace text in a file, count, "
    "or write something out exactly."
)
CHANGED = "Done: the file is changed."
EDIT_FAILED = "The edit failed."
MISSING = "The file does not exist."
UNREADABLE = "I could not read the file."
EMPTY = "The file is empty."
EMPTY_RESULT = "<system-reminder>Warning: the file exists but the contents are empty.</system-reminder>"
NO_OUTPUT = "(Bash completed with no output)"
HELD_OUT_SHARE = 16


@dataclass(frozen=True, slots=True)
class Say:
    """The assistant's words."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """The assistant's tool call, arguments in the order in which Claude Code sends them back."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What the tool answered."""

    text: str


Step = Say | Call | Result


@dataclass(frozen=True, slots=True)
class Turn:
    """A request and all that follows until the assistant has spoken."""

    kind: str
    request: str
    steps: tuple[Step, ...]

    @property
    def held_out(self) -> bool:
        """Whether this instance is kept for evaluation; one of sixteen is, by its request's checksum."""
        return zlib.crc32(self.request.encode()) % HELD_OUT_SHARE == 0


def numbered(lines: Sequence[str], final_newline: bool) -> str:
    """A file's content as the Read tool shows it: a last line that is empty counts as a line."""
    shown = [*lines, ""] if final_newline else lines
    return "\n".join(f"{number}\t{line}" for number, line in enumerate(shown, 1))


class Tasks:
    """Draws turns for one conversation; remembers its paths, as users come back to the same files."""

    def __init__(self, rng: random.Random, words: Words) -> None:
        self.rng = rng
        self.words = words
        self.paths: list[str] = []

    def turn(self, kind: str | None = None, held_out: bool = False) -> Turn:
        """Draw a turn of a kind, or of a random one; open-ended tasks keep to their side of the split."""
        makers: dict[str, tuple[float, Callable[[], Turn]]] = {
            "run": (29, self.run),
            "read": (27, self.read),
            "edit": (26, self.edit),
            "say": (7, self.say),
            "count": (7, self.count),
            "talk": (4, self.talk),
        }
        if kind is None:
            kind = self.rng.choices(list(makers), [weight for weight, _ in makers.values()])[0]
        while True:
            turn = makers[kind][1]()
            if kind == "talk" or turn.held_out == held_out:
                return turn

    def path(self) -> str:
        """A new path, or one this conversation has named before."""
        if self.paths and self.rng.random() < 0.3:
            return self.rng.choice(self.paths)
        self.paths.append(self.words.path())
        return self.paths[-1]

    def command(self) -> str:
        """A command, which may name a path of this conversation."""
        if self.rng.random() < 0.12:
            return f"{self.rng.choice(('cat', 'wc -l', 'ls -l', 'head -n 3', 'stat'))} {self.path()}"
        return self.words.command()

    def run(self) -> Turn:
        """Run a command and report its output: all of it, or the first or last line; never with an indent."""
        command = self.command()
        part = self.rng.choices(("all", "first", "last"), (70, 22, 8))[0]
        request = wordings.run(self.rng, command, part)
        output = self.output(most=14 if part == "all" or self.rng.random() < 0.9 else 200)
        lines = output.split("\n")
        answer = {"all": output, "first": lines[0], "last": lines[-1]}[part]
        call = Call("Bash", {"command": command})
        return Turn("run", request, (call, Result(output), Say(answer.strip())))

    def output(self, most: int) -> str:
        """What a command printed, trimmed as the client trims it."""
        rng, words = self.rng, self.words
        style = rng.random()
        if style < 0.04:
            return NO_OUTPUT
        if style < 0.12:
            error = rng.choice((f"bash: line 1: {words.word()}: command not found", words.line(), ""))
            return f"Exit code {rng.choice((1, 1, 2, 126, 127))}\n{error}".rstrip()
        count = 1 if style < 0.45 else rng.randint(2, 6) if style < 0.85 else rng.randint(7, most)
        text = "\n".join(words.block(count)).strip("\n").rstrip()
        return text or words.plain()

    def lines(self) -> list[str]:
        """The lines of a file; few of them empty, none of them long."""
        rng = self.rng
        count = rng.choice((1, 2, 3, 3, 4, 5, 6, 8, 10, 12, 16, rng.randint(17, 60)))
        if rng.random() < 0.03:
            count = rng.randint(60, 250)
        lines = [line.rstrip() for line in self.words.block(count)]
        if rng.random() < 0.3:
            indent = rng.choice(("    ", "  ", "\t", "        "))
            lines = [indent + line if rng.random() < 0.5 else line for line in lines]
        if count > 3 and rng.random() < 0.4:
            lines[rng.randrange(1, count - 1)] = ""
        return [
            line if line.strip() or 0 < i < count - 1 else self.words.phrase() for i, line in enumerate(lines)
        ]

    def read(self) -> Turn:
        """Read a file and quote a line of it, or all of a short one."""
        rng, path, lines = self.rng, self.path(), self.lines()
        filled = [number for number, line in enumerate(lines[:60], 1) if line]
        part = rng.choices(("first", "number", "last", "all"), (34, 50, 6, 10))[0]
        number = {"first": 1, "last": len(lines)}.get(part) or min(rng.choice(filled), rng.choice(filled))
        if part == "all":
            lines = lines[:12]
        request = wordings.read(rng, path, part, number)
        call = Call("Read", {"file_path": path})
        failure = self.read_failure()
        if failure:
            return Turn("read", request, (call, *failure))
        answer = "\n".join(lines) if part == "all" else lines[number - 1]
        shown = numbered(lines, rng.random() < 0.85)
        return Turn("read", request, (call, Result(shown), Say(answer.strip())))

    def read_failure(self) -> tuple[Step, ...]:
        """Now and then, what follows when a file cannot be read; else nothing."""
        style = self.rng.random()
        if style < 0.03:
            folder = self.words.absolute_folder()
            return (
                Result(f"File does not exist. Note: your current working directory is {folder}."),
                Say(MISSING),
            )
        if style < 0.045:
            return (Result(EMPTY_RESULT), Say(EMPTY))
        if style < 0.06:
            return (Result(f"<tool_use_error>{self.words.real_line()}</tool_use_error>"), Say(UNREADABLE))
        return ()

    def edit(self) -> Turn:
        """Replace a text in a file: read it, edit it, say so."""
        rng, path = self.rng, self.path()
        lines = self.lines()
        old = self.old_text(lines)
        new = self.new_text(old)
        request = wordings.edit(rng, path, old, new)
        read = Call("Read", {"file_path": path})
        failure = self.read_failure()
        if failure:
            return Turn("edit", request, (read, *failure))
        names = {"replace_all": False, "file_path": path, "old_string": old, "new_string": new}
        shown = Result(numbered(lines, rng.random() < 0.85))
        return Turn("edit", request, (read, shown, Call("Edit", names), *self.edit_result(path, old)))

    def edit_result(self, path: str, old: str) -> tuple[Step, Step]:
        """The Edit tool's answer, mostly good, and the assistant's word on it."""
        if self.rng.random() < 0.05:
            error = self.rng.choice(
                (f"String to replace not found in file.\nString: {old}", self.words.real_line())
            )
            return Result(f"<tool_use_error>{error}</tool_use_error>"), Say(EDIT_FAILED)
        note = self.rng.choice(
            (" (file state is current in your context — no need to Read it back)", "", ".")
        )
        return Result(f"The file {path} has been updated successfully.{note}".replace("..", ".")), Say(
            CHANGED
        )

    def old_text(self, lines: list[str]) -> str:
        """A text to replace, put into or taken from the file: a line, some words of it, or one word."""
        rng = self.rng
        candidates = [i for i, line in enumerate(lines) if line.strip()]
        index = rng.choice(candidates)
        parts = lines[index].split()
        start = rng.randrange(len(parts))
        taken = " ".join(parts[start : start + rng.choice((1, 1, 2, 3, 5))])
        style = rng.random()
        if style < 0.2:
            return lines[index].strip()
        if style < 0.6 and taken in lines[index]:
            return taken
        old = self.words.pick(
            (3, self.words.word), (2, lambda: self.words.phrase(2, 4)), (1, self.words.assignment)
        ).strip()
        position = rng.randint(0, len(parts))
        lines[index] = " ".join([*parts[:position], old, *parts[position:]])
        return old

    def new_text(self, old: str) -> str:
        """What to put there instead: unrelated, or the old text with a small change."""
        rng, words = self.rng, self.words
        style = rng.random()
        if style < 0.45:
            return words.pick((4, words.word), (3, lambda: words.phrase(2, 5)), (1, words.line)).strip()
        parts = old.split(" ")
        spot = rng.randrange(len(parts))
        changed = [*parts]
        changed[spot] = rng.choice((words.word(), words.number(), words.identifier()))
        options = (
            " ".join(changed),
            " ".join([*parts, words.word()]),
            " ".join([words.word(), *parts]),
            old + words.number(),
            old[: rng.randint(0, len(old))] + words.word(),
            old + words.mixed(1, 3),
        )
        new = rng.choice(options)
        return new if new != old else new + words.number()

    def say(self) -> Turn:
        """Write a given text out exactly."""
        rng, words = self.rng, self.words
        style = rng.random()
        if style < 0.55:
            text = words.phrase(1, 10)
        elif style < 0.85:
            text = words.line()
        else:
            text = "\n".join(words.block(rng.randint(2, 10)))
        text = text.strip() or words.phrase()
        return Turn("say", wordings.say(rng, text), (Say(text),))

    def count(self) -> Turn:
        """Count from one number to another."""
        rng = self.rng
        low = rng.choice(
            (0, 1, 1, rng.randint(0, 20), rng.randint(0, 99), rng.randint(0, 999), rng.randint(90, 120))
        )
        span = rng.choice((rng.randint(1, 10), rng.randint(1, 10), rng.randint(5, 30), rng.randint(20, 100), rng.randint(3, 200)))
        high = low + span
        answer = ", ".join(str(number) for number in range(low, high + 1))
        return Turn("count", wordings.count(rng, low, high), (Say(answer),))

    def talk(self) -> Turn:
        """A greeting, a question about the model, thanks, or something beyond it."""
        rng = self.rng
        kind = rng.choices(("hello", "who", "thanks", "other"), (35, 15, 10, 40))[0]
        if kind == "other":
            topic = self.words.pick((3, lambda: self.words.phrase(1, 4)), (1, self.words.real_line))
            return Turn("talk", wordings.other(rng, topic), (Say(FALLBACK),))
        answer = {"hello": HELLO, "who": WHO, "thanks": THANKS}[kind]
        return Turn("talk", wordings.talk(rng, kind), (Say(answer),))
