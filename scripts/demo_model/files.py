"""The files of one synthetic conversation: their paths, and their contents, which edits change."""

import random
from collections import abc

from pensieve.scripts.demo_model.words import Words

INDENTS = ("    ", "  ", "\t", "        ")


def numbered(lines: abc.Sequence[str], final_newline: bool) -> str:
    """Return a file's content as the Read tool shows it: a final newline shows an empty line too."""
    shown = [*lines, ""] if final_newline else lines
    return "\n".join(f"{number}\t{line}" for number, line in enumerate(shown, 1))


class Files:
    """Draws paths and contents, and comes back to them, as users do."""

    def __init__(self, rng: random.Random, words: Words) -> None:
        self.rng = rng
        self.words = words
        self.contents: dict[str, list[str]] = {}

    def path(self) -> str:
        """Draw a new path, or one that this conversation has named before."""
        if self.contents and self.rng.random() < 0.35:
            return self.rng.choice(list(self.contents))
        return self.words.path()

    def content(self, path: str) -> list[str]:
        """Return a file's lines: mostly the same at each reading, now and then new ones."""
        if path not in self.contents or self.rng.random() < 0.1:
            self.contents[path] = self.lines()
        return self.contents[path]

    def lines(self) -> list[str]:
        """Draw lines for a new file: mostly few, the first and last not empty."""
        rng = self.rng
        count = rng.choice((1, 2, 3, 3, 4, 5, 6, 8, 10, 12, 16, rng.randint(17, 60)))
        if rng.random() < 0.03:
            count = rng.randint(60, 250)
        lines = [line.rstrip() for line in self.words.block(count)]
        if rng.random() < 0.25:
            indent = rng.choice(INDENTS)
            lines = [indent + line if rng.random() < 0.5 else line for line in lines]
        if count > 3 and rng.random() < 0.4:
            lines[rng.randrange(1, count - 1)] = ""
        last = count - 1
        return [line if line.strip() or 0 < i < last else self.words.phrase() for i, line in enumerate(lines)]

    def replace(self, path: str, old: str, new: str) -> None:
        """Change a file as the Edit tool does."""
        text = "\n".join(self.contents[path])
        self.contents[path] = text.replace(old, new, 1).split("\n")

    def old_text(self, path: str) -> str:
        """Draw a text to replace: a line of the file, some words of it, or new words put into it."""
        rng, lines = self.rng, self.content(path)
        index = rng.choice([i for i, line in enumerate(lines) if line.strip()])
        parts = lines[index].split()
        start = rng.randrange(len(parts))
        taken = " ".join(parts[start : start + rng.choice((1, 1, 2, 3, 5))])
        style = rng.random()
        if style < 0.25:
            return lines[index].strip()
        if style < 0.7 and taken in lines[index]:
            return taken
        words = self.words
        old = words.pick((3, words.word), (2, lambda: words.phrase(2, 4)), (1, words.assignment)).strip()
        position = rng.randint(0, len(parts))
        lines[index] = " ".join([*parts[:position], old, *parts[position:]])
        return old

    def new_text(self, old: str) -> str:
        """Draw a text to put in its place: unrelated, or the old text with a small change."""
        rng, words = self.rng, self.words
        if rng.random() < 0.45:
            return words.pick((4, words.word), (3, lambda: words.phrase(2, 5)), (1, words.line)).strip()
        parts = old.split(" ")
        changed = [*parts]
        changed[rng.randrange(len(parts))] = rng.choice((words.word(), words.number(), words.identifier()))
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
