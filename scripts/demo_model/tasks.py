"""The synthetic conversations: users' requests, and the steps with which the model answers them.

Each maker draws one `Turn`: a request, and the calls, results and words that follow it. The forms of
results and calls are those that Claude Code sends and sends back. Knows nothing of tokens.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pensieve.scripts.demo_model import shell, wordings
from pensieve.scripts.demo_model.files import Files, numbered
from pensieve.scripts.demo_model.shell import NO_OUTPUT
from pensieve.scripts.demo_model.words import Words

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
TOO_SHORT = (
    "<system-reminder>Warning: the file exists but is shorter than the provided offset ({}). "
    "The file has {} lines.</system-reminder>"
)
NO_LINE = "The file has no such line."
EMPTY_LINE = "The line is empty."
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
    """A tool's result."""

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


class Tasks:
    """Draws the turns of one conversation, which come back to the same files and commands."""

    def __init__(self, rng: random.Random, words: Words) -> None:
        self.rng = rng
        self.words = words
        self.files = Files(rng, words)
        self.commands: list[str] = []

    def turn(self, kind: str | None = None, held_out: bool = False) -> Turn:
        """Draw a turn of a kind, or of a random one; open-ended tasks keep to their side of the split."""
        makers: dict[str, tuple[float, Callable[[], Turn]]] = {
            "run": (31, self.run),
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

    def run(self) -> Turn:
        """Run a command and report its output: all of it, or the first or last line; never with an indent."""
        command, output = self.command()
        self.commands.append(command)
        part = self.rng.choices(("all", "first", "last"), (72, 22, 6))[0]
        lines = output.split("\n")
        answer = {"all": output, "first": lines[0], "last": lines[-1]}[part]
        answer = answer.strip() or output.strip()
        request = wordings.run(self.rng, command, part)
        return Turn("run", request, (Call("Bash", {"command": command}), Result(output), Say(answer)))

    def command(self) -> tuple[str, str]:
        """Draw a command and its output: the true one, a random one, or a new one of an earlier command."""
        style = self.rng.random()
        if style < 0.5:
            command, output = shell.demonstrate(self.words, self.files)
            return command, output.strip("\n").rstrip() or NO_OUTPUT
        if style < 0.58 and self.commands:
            return self.rng.choice(self.commands), self.output()
        return self.words.command(), self.output()

    def output(self) -> str:
        """Draw a command's output, trimmed as the client trims it."""
        rng, words = self.rng, self.words
        style = rng.random()
        if style < 0.04:
            return NO_OUTPUT
        if style < 0.12:
            error = rng.choice((f"bash: line 1: {words.word()}: command not found", words.line(), ""))
            return f"Exit code {rng.choice((1, 1, 2, 126, 127))}\n{error}".rstrip()
        count = 1 if style < 0.45 else rng.randint(2, 6) if style < 0.85 else rng.randint(7, 14)
        text = "\n".join(words.block(count)).strip("\n").rstrip()
        return text or words.plain()

    def read(self) -> Turn:
        """Read a file and quote its first or last line or all of it; a line by number has its own way."""
        rng = self.rng
        path = self.files.path()
        part = rng.choices(("first", "number", "last", "all"), (46, 36, 6, 12))[0]
        if part == "number":
            return self.read_line(path)
        lines = self.files.content(path)
        if part == "all":
            self.files.contents[path] = lines = lines[:12]
        request = wordings.read(rng, path, part)
        call = Call("Read", {"file_path": path})
        failure = self.read_failure()
        if failure:
            return Turn("read", request, (call, *failure))
        answer = {"first": lines[0], "last": lines[-1], "all": "\n".join(lines)}[part]
        shown = numbered(lines, rng.random() < 0.85)
        return Turn("read", request, (call, Result(shown), Say(answer.strip())))

    def read_line(self, path: str) -> Turn:
        """Quote a line by its number: read that line alone, since a tiny model cannot look numbers up."""
        rng = self.rng
        lines = self.files.content(path)
        number = rng.choice(
            (rng.randint(1, len(lines)), rng.randint(1, 12), rng.randint(1, 40), rng.randint(1, 400))
        )
        call = Call("Read", {"file_path": path, "offset": number, "limit": 1})
        request = wordings.read(rng, path, "number", number)
        failure = self.read_failure()
        if failure:
            return Turn("read", request, (call, *failure))
        if number > len(lines) and rng.random() < 0.2:
            return Turn("read", request, (call, Result(TOO_SHORT.format(number, len(lines))), Say(NO_LINE)))
        line = lines[number - 1] if number <= len(lines) else self.words.line().strip() or "x"
        return Turn("read", request, (call, Result(f"{number}\t{line}"), Say(line.strip() or EMPTY_LINE)))

    def read_failure(self) -> tuple[Step, ...]:
        """Draw, now and then, the steps after a file that cannot be read; mostly none."""
        style = self.rng.random()
        if style < 0.03:
            folder = self.words.absolute_folder()
            note = f"File does not exist. Note: your current working directory is {folder}."
            return (Result(self.rng.choice(("", "Error: ")) + note), Say(MISSING))
        if style < 0.045:
            return (Result(EMPTY_RESULT), Say(EMPTY))
        if style < 0.06:
            return (Result(f"<tool_use_error>{self.words.real_line()}</tool_use_error>"), Say(UNREADABLE))
        return ()

    def edit(self) -> Turn:
        """Replace a text in a file: read it, edit it, say so."""
        files, rng = self.files, self.rng
        path = files.path()
        old = files.old_text(path)
        new = files.new_text(old)
        request = wordings.edit(rng, path, old, new)
        read = Call("Read", {"file_path": path})
        failure = self.read_failure()
        if failure:
            return Turn("edit", request, (read, *failure))
        names = {"replace_all": False, "file_path": path, "old_string": old, "new_string": new}
        shown = Result(numbered(files.contents[path], rng.random() < 0.85))
        files.replace(path, old, new)
        return Turn("edit", request, (read, shown, Call("Edit", names), *self.edit_result(path, old)))

    def edit_result(self, path: str, old: str) -> tuple[Step, Step]:
        """Draw the Edit tool's answer, mostly good, and the assistant's word on it."""
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
        span = rng.choice(
            (
                rng.randint(1, 10),
                rng.randint(1, 10),
                rng.randint(5, 30),
                rng.randint(20, 100),
                rng.randint(3, 200),
            )
        )
        high = low + span
        answer = ", ".join(str(number) for number in range(low, high + 1))
        return Turn("count", wordings.count(rng, low, high), (Say(answer),))

    def talk(self) -> Turn:
        """Draw a greeting, a question about the model, thanks, or something beyond it."""
        rng = self.rng
        kind = rng.choices(("hello", "who", "thanks", "other"), (35, 15, 10, 40))[0]
        if kind == "other":
            topic = self.words.pick((3, lambda: self.words.phrase(1, 4)), (1, self.words.real_line))
            return Turn("talk", wordings.other(rng, topic), (Say(FALLBACK),))
        answer = {"hello": HELLO, "who": WHO, "thanks": THANKS}[kind]
        return Turn("talk", wordings.talk(rng, kind), (Say(answer),))
