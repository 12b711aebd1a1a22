"""Keeps a prompt's special tokens apart from text that merely looks like them.

A tokenizer makes `<|im_end|>` the token that ends a turn wherever it stands: in a file that the model reads
as well as in the chat template. So a special token in content is split by a separator before the template
renders the content; a special token that is whole in the rendered text is the template's own. Content without
special tokens, the usual case, is only searched.
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
TAG_PATTERN = re.compile(r"[<\[{].+[>\]}]", re.DOTALL)


class SpecialTokens:
    """One tokenizer's special tokens, and its other added tokens that are written like tags."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = [token.content for token in added.values() if _is_special(token)]
        self._token_pattern = re.compile(_any_of(special))
        self._first_char_pattern = re.compile(f"(?={_any_of(special)})(.)", re.DOTALL)
        # Content is searched as JSON, which writes some characters in another way.
        self._json_pattern = re.compile(
            _any_of([json.dumps(token, ensure_ascii=False)[1:-1] for token in special])
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._renamed = RenamedTokenizer(backend, added, special) if isinstance(backend, Backend) else None

    def escape(self, content: T) -> tuple[T, str]:
        """Split the special tokens in all strings of a JSON value, keys included, by a random separator.

        Returns the value and the separator, which is empty when the value holds no special token.
        """
        if not self._json_pattern.search(json.dumps(content, ensure_ascii=False)):
            return content, ""
        separator = f"q{secrets.token_hex(8)}q"  # letters, because templates may write content as JSON
        return self._split(content, separator), separator

    def encode(self, text: str, separator: str) -> list[int]:
        """Tokenise a rendered text whose content `escape` has split by `separator`.

        No special token is added: the template has written all of them, also the one that begins a prompt.
        """
        if separator and self._renamed is not None:
            names = self._renamed.names
            renamed = self._token_pattern.sub(lambda token: names[token[0]], text)
            return self._renamed.encode(renamed.replace(separator, ""))
        parts = text.split(separator) if separator else [text]
        return [token for part in parts for token in self._tokenizer.encode(part, add_special_tokens=False)]

    def _split(self, value: Any, separator: str) -> Any:
        if isinstance(value, str):
            return self._first_char_pattern.sub(rf"\1{separator}", value)
        if isinstance(value, Mapping):
            return {
                self._split(key, separator): self._split(entry, separator) for key, entry in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._split(entry, separator) for entry in value]
        return value


class RenamedTokenizer:
    """A copy of a tokenizer whose special tokens have random names, which no content can hold.

    names: the random name of each special token.
    """

    def __init__(self, backend: Backend, added: Mapping[int, AddedToken], special: Iterable[str]) -> None:
        # Noncharacters around a random word: nobody can guess the name, so nobody can write it.
        secret = secrets.token_hex(8)
        self.names = {token: f"\ufdd0{secret}.{i}\ufdd1" for i, token in enumerate(special)}
        # Vocabulary and merges are shared, not copied.
        self._backend = Backend(backend.model)
        self._backend.normalizer = backend.normalizer
        self._backend.pre_tokenizer = backend.pre_tokenizer
        renamed = [_renamed(token, self.names.get(token.content, token.content)) for token in added.values()]
        self._backend.add_tokens(renamed)
        renamed_ids = (self._backend.token_to_id(token.content) for token in renamed)
        self._original_ids = dict(zip(renamed_ids, added, strict=True))  # of added tokens

    def encode(self, text: str) -> list[int]:
        """Return the original tokenizer's ids of a text in which random names stand for special tokens."""
        # A batch of one: only batches release the GIL.
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        original_ids = self._original_ids
        return [original_ids.get(token, token) for token in encoding.ids]


def _renamed(token: AddedToken, name: str) -> AddedToken:
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _is_special(token: AddedToken) -> bool:
    # A single character cannot be split.
    return len(token.content) > 1 and (token.special or TAG_PATTERN.fullmatch(token.content) is not None)


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern that matches the longest of some words; without words, one that never matches.

    It branches character by character: Llama 3 has 256 special tokens, and files hold many `<`.
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
