"""Keeps the marks of a prompt apart from text that merely looks like them.

A tokenizer makes `<|im_end|>` the token that ends a turn wherever it stands: in a file that the model reads
as well as in the chat template. So marks in content are broken before the template sees it, and what is whole
in the rendered text is the template's own. Content without marks, the usual case, is only looked through.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from ..protocols import Tokenizer

T = TypeVar("T")

# Some tokenizers have words or runs of spaces among their added tokens; those are text.
SHAPE = re.compile(r"[<\[{].+[>\]}]", re.DOTALL)


class Marks:
    """The marks of one tokenizer: its special tokens, and other added ones that are written like marks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        marks = [token.content for token in added.values() if _is_mark(token)]
        self._whole = re.compile(_any_of(marks))
        self._begin = re.compile(f"(?={_any_of(marks)})(.)", re.DOTALL)
        # Content is looked through as JSON, which writes some characters in another way.
        self._suspect = re.compile(_any_of([json.dumps(mark, ensure_ascii=False)[1:-1] for mark in marks]))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._twin = Twin(backend, added, marks) if isinstance(backend, Backend) else None

    def hide(self, content: T) -> tuple[T, str]:
        """Break the marks in all strings of a JSON value, keys among them, by a word that is nowhere else.

        Returns the value and the word, which is empty when there was nothing to break.
        """
        if not self._suspect.search(json.dumps(content, ensure_ascii=False)):
            return content, ""
        breaker = f"q{secrets.token_hex(8)}q"  # letters, because templates may write content as JSON
        return self._break(content, breaker), breaker

    def encode(self, text: str, breaker: str) -> list[int]:
        """Tokenise a rendered text in whose content `breaker` has broken the marks."""
        if breaker and self._twin is not None:
            names = self._twin.names
            return self._twin.encode(self._whole.sub(lambda mark: names[mark[0]], text).replace(breaker, ""))
        # The template has written the special tokens, the first one included.
        parts = text.split(breaker) if breaker else [text]
        return [token for part in parts for token in self._tokenizer.encode(part, add_special_tokens=False)]

    def _break(self, value: Any, breaker: str) -> Any:
        if isinstance(value, str):
            return self._begin.sub(rf"\1{breaker}", value)
        if isinstance(value, Mapping):
            return {self._break(key, breaker): self._break(entry, breaker) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self._break(entry, breaker) for entry in value]
        return value


class Twin:
    """The same tokenizer, but its marks have names that no content can hold."""

    def __init__(self, backend: Backend, added: Mapping[int, AddedToken], marks: Iterable[str]) -> None:
        # Behind noncharacters, and random: what nobody can guess, nobody can write.
        secret = secrets.token_hex(8)
        self.names = {mark: f"\ufdd0{secret}.{i}\ufdd1" for i, mark in enumerate(marks)}
        # Vocabulary and merges are shared, not copied.
        self._backend = Backend(backend.model)
        self._backend.normalizer = backend.normalizer
        self._backend.pre_tokenizer = backend.pre_tokenizer
        renamed = [_renamed(token, self.names.get(token.content, token.content)) for token in added.values()]
        self._backend.add_tokens(renamed)
        twin_ids = (self._backend.token_to_id(token.content) for token in renamed)
        self._ids = dict(zip(twin_ids, added, strict=True))  # of added tokens: the twin's to our own

    def encode(self, text: str) -> list[int]:
        """Tokenise a text whose marks have been renamed."""
        ids = self._ids
        # A batch of one: only batches let the GIL go.
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        return [ids.get(token, token) for token in encoding.ids]


def _renamed(token: AddedToken, name: str) -> AddedToken:
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _is_mark(token: AddedToken) -> bool:
    # A single character cannot be broken.
    return len(token.content) > 1 and (token.special or SHAPE.fullmatch(token.content) is not None)


def _any_of(words: Iterable[str]) -> str:
    """Write a pattern for any of some words, the longest that fits; for none, one that never fits.

    It branches character by character: Llama 3 has 256 marks, and files have many a `<`.
    """
    tails: dict[str, list[str]] = {}
    words = list(words)
    for word in filter(None, words):
        tails.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(char) + (_any_of(rest) if any(rest) else "") for char, rest in tails.items()]
    if not branches:
        return "(?!)"
    if len(branches) == 1 and "" not in words:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if "" in words else "")
