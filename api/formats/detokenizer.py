"""Decodes token ids to text, a few at a time, without ever returning half a character.

The texts join to the text of all tokens, however the tokens are split. U+FFFD appears only for bytes that are
not UTF-8. mlx-lm's own streaming detokenizer turns a NUL byte into 'Ā', so bytes are decoded here.
"""

import codecs
from collections.abc import Callable
from typing import Protocol

from ..protocols import Tokenizer
from .token_bytes import TokenBytes


class Detokenizer(Protocol):
    """Decodes the tokens of one answer."""

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text that has become certain."""

    def flush(self) -> str:
        """Return the text that was held back; nothing may be added afterwards."""

    def copy(self) -> "Detokenizer":
        """Return an independent copy, with the text that is held back."""


class ByteDetokenizer:
    """Decodes tokens whose bytes are known, in time linear in their number."""

    def __init__(self, token_bytes: list[bytes], strip_first_space: bool = False) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip_space = strip_first_space

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text of the characters that are whole."""
        table = self._token_bytes
        # Ids past the vocabulary come from padded embeddings; they have no text.
        text = self._decoder.decode(b"".join([table[token] for token in tokens if token < len(table)]))
        if self._strip_space and text:
            self._strip_space = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """Return U+FFFD if the tokens end with half a character."""
        return self._decoder.decode(b"", final=True)

    def copy(self) -> "ByteDetokenizer":
        """Return an independent copy, with the bytes that are held back."""
        twin = ByteDetokenizer(self._token_bytes, self._strip_space)
        twin._decoder.setstate(self._decoder.getstate())
        return twin


class WindowDetokenizer:
    """Decodes the last few tokens with the tokenizer itself, anew for every token.

    The window starts with tokens whose text was returned, because some decoders treat their first token
    differently.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._returned: list[int] = []  # the window's tokens whose text was returned
        self._pending: list[int] = []

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text of the characters that are whole."""
        texts = []
        for token in tokens:
            self._pending.append(token)
            texts.append(self._take(final=False))
        return "".join(texts)

    def flush(self) -> str:
        """Return the text of the tokens that do not end with a whole character."""
        return self._take(final=True)

    def copy(self) -> "WindowDetokenizer":
        """Return an independent copy, with the same window."""
        twin = WindowDetokenizer(self._decode)
        twin._returned, twin._pending = list(self._returned), list(self._pending)
        return twin

    def _take(self, final: bool) -> str:
        text = self._decode(self._returned + self._pending)
        if text.endswith("\ufffd") and not final:
            return ""
        start = len(self._decode(self._returned)) if self._returned else 0
        self._returned, self._pending = self._pending or self._returned, []
        return text[start:]


def detokenizer_factory(tokenizer: Tokenizer, token_bytes: TokenBytes) -> Callable[[], Detokenizer]:
    """Return a function that makes detokenizers: of bytes where each token's are known, else of windows."""
    table, strips = token_bytes.table, token_bytes.strips_first_space
    if table is None:
        return lambda: WindowDetokenizer(tokenizer.decode)
    return lambda: ByteDetokenizer(table, strip_first_space=strips)
