"""The model's tokens as the grammar compiler knows them: their bytes, and which of them are special."""

from collections import abc
from collections.abc import Collection
from dataclasses import dataclass

from llguidance import LLTokenizer, TokenizerWrapper


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of each token, the special tokens, and llguidance's tokenizer.

    special_tokens: ids of the tokens that are no text, by their content. A grammar allows such a token only
    where it names it, never in a string.
    """

    bytes_of: list[bytes]
    ids_of_bytes: list[int]  # the token of each single byte
    special_tokens: dict[str, int]
    eos_ids: frozenset[int]
    compiler: LLTokenizer

    @property
    def all_tokens(self) -> bytes:
        """A mask that allows every token."""
        return b"\xff" * -(-len(self.bytes_of) // 8)

    def spell(self, text: bytes) -> list[int]:
        """Write text in tokens of one byte each, none of them special."""
        return [self.ids_of_bytes[byte] for byte in text]

    def text(self, token: int) -> bytes:
        """Return a token's bytes; an id past the vocabulary, of padded embeddings, has none."""
        return self.bytes_of[token] if self.knows(token) else b""

    def is_special(self, token: int) -> bool:
        """Whether a token is no text."""
        return token == self.special_tokens.get(self.text(token).decode(errors="replace"))

    def knows(self, token: int) -> bool:
        """Whether an id is that of a token in the vocabulary."""
        return token < len(self.bytes_of)


class _Speller:
    """The tokenizer that llguidance requires. How it splits text has no influence on sampling."""

    def __init__(
        self, tokens: abc.Sequence[bytes], special_ids: Collection[int], ids_of_bytes: abc.Sequence[int]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(special_ids)
        self.eos_token_id = self.special_token_ids[0]  # `make_vocabulary` gives the compiler all of them
        self.bos_token_id = None
        self._ids_of_bytes = ids_of_bytes

    def __call__(self, text: bytes) -> list[int]:
        return [self._ids_of_bytes[byte] for byte in text]


def make_vocabulary(
    bytes_of: list[bytes], special_tokens: dict[str, int], eos_ids: Collection[int]
) -> Vocabulary | None:
    """Prepare a vocabulary for the compiler, which takes a second for a large one.

    None where decoding cannot be constrained: some byte has no token of its own, or no token ends an answer.
    """
    known_eos = sorted(token for token in eos_ids if token < len(bytes_of))
    special_ids = {*special_tokens.values(), *known_eos}
    singles = {text[0]: i for i, text in enumerate(bytes_of) if len(text) == 1 and i not in special_ids}
    if len(singles) < 256 or not known_eos:
        return None
    ids_of_bytes = [singles[byte] for byte in range(256)]
    speller = TokenizerWrapper(_Speller(bytes_of, special_ids, ids_of_bytes))
    compiler = LLTokenizer(speller, eos_token=known_eos)
    return Vocabulary(bytes_of, ids_of_bytes, special_tokens, frozenset(known_eos), compiler)
