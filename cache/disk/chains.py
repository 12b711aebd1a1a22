"""Digests of token prefixes, by which the KV of a prefix is found on disk.

The digest after a block is the sha256 of the digest before it and of the block's tokens, as in vLLM's block
hashes. The digest before the first block is the fingerprint of all that decides what KV holds
(`fingerprint.py`), so that no other model's KV can be found. A digest only finds a file: the tokens in it are
compared as well.
"""

import hashlib
from array import array
from collections import abc

from ..blocks import BLOCK_SIZE

TOKEN_BYTES = 4
BLOCK_TOKEN_BYTES = BLOCK_SIZE * TOKEN_BYTES
DIGEST_BYTES = 32


class Chain:
    """The full blocks of one token sequence: their tokens, and the digest after each."""

    __slots__ = ("_tokens", "digests", "fingerprint")

    def __init__(self, fingerprint: bytes, space: bytes = b"") -> None:
        """space: chains of another one have other digests; not as long as the tokens of a block."""
        assert len(space) != BLOCK_TOKEN_BYTES
        self.fingerprint = fingerprint
        root = hashlib.sha256(fingerprint + space).digest() if space else fingerprint
        self.digests = [root]  # digests[i]: after the first i blocks
        self._tokens = bytearray()

    @property
    def num_blocks(self) -> int:
        """Full blocks that the chain knows."""
        return len(self.digests) - 1

    def extend(self, tokens: abc.Sequence[int]) -> None:
        """Add the full blocks that the sequence has got since.

        tokens: all of the sequence's, from its first.
        """
        first, end = self.num_blocks * BLOCK_SIZE, len(tokens) // BLOCK_SIZE * BLOCK_SIZE
        if first < end:
            added = array("I", tokens[first:end]).tobytes()
            self._tokens += added
            self.digests += digests_after(self.digests[-1], added)

    def tokens(self, first_block: int, end_block: int) -> bytes:
        """Return the tokens of some of the blocks, as files have them: 4 bytes each, the lowest first."""
        return bytes(self._tokens[first_block * BLOCK_TOKEN_BYTES : end_block * BLOCK_TOKEN_BYTES])


def digests_after(parent: bytes, tokens: bytes) -> list[bytes]:
    """Return the digest after each block of `tokens`, which follow a prefix with the digest `parent`."""
    digests = []
    for start in range(0, len(tokens), BLOCK_TOKEN_BYTES):
        parent = hashlib.sha256(parent + tokens[start : start + BLOCK_TOKEN_BYTES]).digest()
        digests.append(parent)
    return digests
