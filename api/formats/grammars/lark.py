"""Writes grammars in llguidance's dialect of Lark, rule by rule."""

import json
import re
from collections import abc
from collections.abc import Mapping

# Where only one text can follow, llguidance would allow only one way to cut it into tokens. That is for the
# model to choose: it goes astray behind tokens that it would not have written.
OPTIONS = '%llguidance {"no_forcing": true}'


class Lark:
    """The rules of one grammar. `marks` are the ids of tokens that are no text."""

    def __init__(self, marks: Mapping[str, int]) -> None:
        self._marks = marks
        self._rules: list[str] = []
        self._num_names = 0

    def __str__(self) -> str:
        return "\n".join([OPTIONS, *self._rules])

    def rule(self, name: str, body: str) -> None:
        """Define a rule, or with a name in capitals a lexeme."""
        self._rules.append(f"{name}: {body}")

    def rules(self, rules: Mapping[str, str]) -> None:
        """Define several."""
        for name, body in rules.items():
            self.rule(name, body)

    def name(self, kind: str = "rule") -> str:
        """Make a name that no rule has."""
        self._num_names += 1
        return f"{kind}_{self._num_names}"

    def new(self, body: str, kind: str = "rule", options: str = "") -> str:
        """Define a rule or lexeme and return the name it is given."""
        name = self.name(kind)
        self.rule(name + options, body)
        return name

    def json(self, schema: str) -> str:
        """Define a rule for the values of a schema, which is a JSON text."""
        return self.new(f"%json {schema}")

    def one_of(self, bodies: abc.Sequence[str]) -> str:
        """Define a rule for any of several bodies."""
        return self.new(" | ".join(bodies))

    def is_marked(self, text: str) -> bool:
        """Whether a text is in part made of tokens that are no text."""
        return any(mark in text for mark in self._marks)

    def mark(self, text: str) -> str:
        """Write a mark as the tokens that it is made of, or in letters: the reader takes either."""
        if not self.is_marked(text):
            return literal(text)
        longest_first = sorted(map(re.escape, self._marks), key=len, reverse=True)
        parts = [part for part in re.split(f"({'|'.join(longest_first)})", text) if part]
        tokens = [f"<[{self._marks[part]}]>" if part in self._marks else literal(part) for part in parts]
        return f"({' '.join(tokens)} | {literal(text)})"


def literal(text: str) -> str:
    """Write a text that must occur as it is."""
    return json.dumps(text, ensure_ascii=False)


def pattern(text: str) -> str:
    """Write a text for use inside of a regular expression between slashes."""
    return re.sub(r"([^\w\s<>=\"':,-])", r"\\\1", text).replace("\n", r"\n")
