"""Writes grammars in llguidance's dialect of Lark, rule by rule."""

import json
import re
from collections import abc
from collections.abc import Mapping

# Where only one text can follow, llguidance would allow only one way to split it into tokens. The model must
# be free to choose the tokens: after tokens that it would not have chosen, it goes astray.
OPTIONS = '%llguidance {"no_forcing": true}'


class Lark:
    """The rules of one grammar. special_tokens: the ids of the tokens that are no text, by their content."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._special_tokens = special_tokens
        self._rules: list[str] = []
        self._num_names = 0

    def __str__(self) -> str:
        return "\n".join([OPTIONS, *self._rules])

    def rule(self, name: str, body: str) -> None:
        """Define a rule, or a lexeme where the name is in capitals."""
        self._rules.append(f"{name}: {body}")

    def rules(self, rules: Mapping[str, str]) -> None:
        """Define several rules or lexemes, in order."""
        for name, body in rules.items():
            self.rule(name, body)

    def name(self, kind: str = "rule") -> str:
        """Return a new name, which no other rule has."""
        self._num_names += 1
        return f"{kind}_{self._num_names}"

    def new(self, body: str, kind: str = "rule", options: str = "") -> str:
        """Define a rule or lexeme under a new name, and return the name."""
        name = self.name(kind)
        self.rule(name + options, body)
        return name

    def json(self, schema: str) -> str:
        """Define a rule for the values of `schema`, a JSON text, and return the rule's name."""
        return self.new(f"%json {schema}")

    def one_of(self, bodies: abc.Sequence[str]) -> str:
        """Define a rule for any of several bodies and return the rule's name."""
        return self.new(" | ".join(bodies))

    def has_special_tokens(self, text: str) -> bool:
        """Whether a text holds special tokens."""
        return any(token in text for token in self._special_tokens)

    def tag(self, text: str) -> str:
        """Write a tag as its special tokens or in letters: the call readers accept both."""
        if not self.has_special_tokens(text):
            return literal(text)
        longest_first = sorted(map(re.escape, self._special_tokens), key=len, reverse=True)
        parts = [part for part in re.split(f"({'|'.join(longest_first)})", text) if part]
        return f"({' '.join(map(self._part, parts))} | {literal(text)})"

    def _part(self, text: str) -> str:
        return f"<[{self._special_tokens[text]}]>" if text in self._special_tokens else literal(text)


def literal(text: str) -> str:
    """Write a text that must occur exactly so."""
    return json.dumps(text, ensure_ascii=False)


def pattern(text: str) -> str:
    """Escape a text for a regular expression between slashes."""
    return re.sub(r"([^\w\s<>=\"':,\x80-\U0010ffff-])", r"\\\1", text).replace("\n", r"\n")
