"""The bytes that single tokens stand for."""

import json
from typing import Any

from ..protocols import Tokenizer

SPACE_MARK = "\u2581"  # SentencePiece's stand-in for a space

BYTE_LEVEL, SENTENCE_PIECE = ["ByteLevel"], ["Replace", "ByteFallback", "Fuse"]
"""The decoders whose tokens stand for bytes, each as the type names of its parts."""


class TokenBytes:
    """The bytes of one tokenizer's tokens, read once from its vocabulary.

    table: bytes by token id; None where a token's bytes may depend on the tokens around it.
    strips_first_space: an answer's text begins without the space of its first token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        kinds = _decoder_kinds(_decoder_description(tokenizer))
        self._is_sentence_piece = kinds[:3] == SENTENCE_PIECE
        self.strips_first_space = kinds[-1:] == ["Strip"]
        self.table: list[bytes] | None = None
        if kinds == BYTE_LEVEL:
            self.table = _read_vocabulary(tokenizer, _byte_level_bytes())
        elif self._is_sentence_piece and kinds[3:] in ([], ["Strip"]):
            self.table = _read_vocabulary(tokenizer, None)

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; where they are unknown, the bytes of the token's text decoded alone."""
        if self.table is not None:
            return self.table[token] if token < len(self.table) else b""
        if self._is_sentence_piece:
            return _sentence_piece(_backend(self._tokenizer).id_to_token(token) or "")
        return self._tokenizer.decode([token]).encode()


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


def _backend(tokenizer: Tokenizer) -> Any:
    return getattr(tokenizer, "backend_tokenizer")  # noqa: B009  (not part of the protocol)


def _read_vocabulary(tokenizer: Tokenizer, byte_of: dict[str, int] | None) -> list[bytes]:
    """List the bytes of every token; `byte_of` maps the characters of a byte-level vocabulary."""
    backend = _backend(tokenizer)
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
