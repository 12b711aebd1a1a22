"""A constraint without a grammar, for tests of what must hold for any."""

from collections import abc
from functools import cache


@cache
def residue_mask(residue: int, vocab: int) -> bytes:
    """Allow one residue of seven."""
    kept = [token < vocab and token % 7 == residue for token in range(vocab + 8)]
    return bytes(sum(kept[i + j] << j for j in range(8)) for i in range(0, vocab, 8))


def is_allowed(token: int, mask: bytes | None) -> bool:
    """Whether a mask leaves a token."""
    return mask is None or (token < 8 * len(mask) and bool(mask[token // 8] >> token % 8 & 1))


class Residues:
    """Allows by turns everything and one residue of seven; which one depends on the tokens before."""

    def __init__(self, seed: int, tokens: abc.Sequence[int] = (), vocab: int = 1000) -> None:
        self.seed = seed
        self.tokens = list(tokens)
        self.vocab = vocab
        self.num_refused = 0

    def mask(self) -> bytes | None:
        if (len(self.tokens) + self.seed) % 16 < 5:
            return None
        return residue_mask(sum(self.tokens) % 7, self.vocab)

    def accept(self, token: int) -> bool:
        accepted = is_allowed(token, self.mask())
        self.num_refused += not accepted
        self.tokens += [token] * accepted
        return accepted

    def resumed(self, tokens: abc.Sequence[int]) -> "Residues":
        return Residues(self.seed, tokens, self.vocab)
