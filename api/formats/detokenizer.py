"""Token ids to text, piece by piece, without ever showing half a character.

Whatever the pieces, they join to the text of the whole: U+FFFD appears only for bytes that are no UTF-8.
mlx-lm's own streaming detokenizer turns a NUL byte into 'Ā', so bytes are decoded here.
"""

import codecs
import json
from collections.abc import Callable
from typing import Any, Protocol

from ..protocols import Tokenizer

SPACE_MARK = "\u2581"  # SentencePiece's stand-in for a space


class Detokenizer(Protocol):
    """The text of one answer."""

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text that has become certain."""

    def flush(self) -> str:
        """Return what was held back; nothing may be added afterwards."""


class ByteDetokenizer:
    """Decodes tokens whose bytes are known, in time linear in their number."""

    def __init__(self, token_bytes: list[bytes], strip_first_space: bool = False) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip_space = strip_first_space

    def add(self, tokens: list[int]) -> str:
        table = self._token_bytes
        # Ids past the vocabulary come from padded embeddings; they stand for nothing.
        text = self._decoder.decode(b"".join([table[token] for token in tokens if token < len(table)]))
        if self._strip_space and text:
            self._strip_space = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """Decodes through the tokenizer itself, again and again over the last few tokens.

    The window starts at tokens already shown, because some decoders treat the first token differently.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []  # the window's tokens whose text is out
        self._pending: list[int] = []

    def add(self, tokens: list[int]) -> str:
        events = []
        for token in tokens:
            self._pending.append(token)
            events.append(self._take(final=False))
        return "".join(events)

    def flush(self) -> str:
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        text = self._decode(self._shown + self._pending)
        if text.endswith("\ufffd") and not final:
            return ""
        start = len(self._decode(self._shown)) if self._shown else 0
        self._shown, self._pending = self._pending or self._shown, []
        return text[start:]


def detokenizer_factory(tokenizer: Tokenizer) -> Callable[[], Detokenizer]:
    """Choose how this tokenizer's ids are decoded; call it once, it reads the whole vocabulary."""
    table = token_bytes(tokenizer)
    if table is None:
        return lambda: WindowDetokenizer(tokenizer.decode)
    strips = _decoder_kinds(_decoder_description(tokenizer))[-1] == "Strip"
    return lambda: ByteDetokenizer(table, strip_first_space=strips)


def token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """List the bytes that each token stands for, None where they depend on the tokens around it."""
    kinds = _decoder_kinds(_decoder_description(tokenizer))
    if kinds == ["ByteLevel"]:
        return _read_vocabulary(tokenizer, _byte_level_bytes())
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and kinds[3:] in ([], ["Strip"]):
        return _read_vocabulary(tokenizer, None)
    return None


class TokenTexts:
    """The bytes of single tokens."""

    def __init__(self, tokenizer: Tokenizer, new_detokenizer: Callable[[], Detokenizer]) -> None:
        self.new_detokenizer = new_detokenizer
        self._tokenizer = tokenizer
        kinds = _decoder_kinds(_decoder_description(tokenizer))
        self._byte_of = _byte_level_bytes() if kinds == ["ByteLevel"] else None
        self._knows_bytes = kinds == ["ByteLevel"] or kinds[:3] == ["Replace", "ByteFallback", "Fuse"]

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; where only the tokenizer knows them, those of its text alone."""
        if not self._knows_bytes:
            return self._tokenizer.decode([token]).encode()
        backend: Any = getattr(self._tokenizer, "backend_tokenizer")  # noqa: B009  (not part of the protocol)
        text = backend.id_to_token(token) or ""
        return _byte_level(text, self._byte_of) if self._byte_of else _sentence_piece(text)


def _decoder_description(tokenizer: Tokenizer) -> dict[str, Any]:
    """Read the fast tokenizer's own description of its decoder; empty when there is none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return {}
    description = json.loads(decoder.__getstate__())
    return description if isinstance(description, dict) else {}


def _decoder_kinds(decoder: dict[str, Any]) -> list[str]:
    if decoder.get("type") == "Sequence":
        return [part["type"] for part in decoder["decoders"]]
    return [decoder["type"]] if "type" in decoder else []


def _read_vocabulary(tokenizer: Tokenizer, byte_of: dict[str, int] | None) -> list[bytes]:
    """List the bytes of every token; `byte_of` maps the characters of a byte-level vocabulary."""
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009  (not part of the protocol)
    size = backend.get_vocab_size(with_added_tokens=True)
    ids = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(ids.values(), default=size - 1) + 1)
    for token, index in ids.items():
        table[index] = _byte_level(token, byte_of) if byte_of else _sentence_piece(token)
    return table


def _byte_level(token: str, byte_of: dict[str, int]) -> bytes:
    """Decode a token's stand-in characters; a token with any other character is plain text."""
    if all(char in byte_of for char in token):
        return bytes(byte_of[char] for char in token)
    return token.encode()


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE_MARK, " ").encode()


def _byte_level_bytes() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}
