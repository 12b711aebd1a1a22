"""What the server's process asks of the engine's, which alone has the KV, and what it hears: plain values."""

from dataclasses import dataclass
from typing import Literal

from .chains import BLOCK_TOKEN_BYTES, Chain, digests_after

FileKind = Literal["kv", "state"]
"""A file has the KV of some blocks, or what a sequence needs beside KV to go on after its last block."""

ReadProblem = Literal["damaged", "gone", "failed", "late"]
"""late: nothing is known of the file but that reading it, or what came before, took too long."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """What a file is for: some consecutive full blocks of a chain."""

    kind: FileKind
    fingerprint: bytes
    parent: bytes  # digest of the prefix before the first of the file's blocks
    first_block: int  # place of the file's first block in its chain
    tokens: bytes  # of the file's blocks; of a state, those of the last block before it

    @property
    def num_blocks(self) -> int:
        """Blocks that the file is for."""
        return len(self.tokens) // BLOCK_TOKEN_BYTES

    @property
    def digests(self) -> list[bytes]:
        """The digest after each of the blocks."""
        return digests_after(self.parent, self.tokens)


def key_of(chain: Chain, kind: FileKind, first_block: int, end_block: int) -> FileKey:
    """Return what a file is for that has some of the blocks of `chain`, or the state after them."""
    parent, tokens = chain.digests[first_block], chain.tokens(first_block, end_block)
    return FileKey(kind, chain.fingerprint, parent, first_block, tokens)


@dataclass(frozen=True, slots=True)
class WriteOrder:
    """A file that shall be written, for which room is reserved."""

    path: str
    key: FileKey
    payload_bytes: int  # exactly


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """Some consecutive blocks of a file, which is read whole; of a state, the file.

    `wanted` has the tokens that the caller asks for; the file may go on with others, or begin before them.
    """

    path: str
    wanted: FileKey
    payload_bytes: int  # of the whole file
    file_blocks: int  # of the whole file
    offset: int  # place in the file of the first block that is wanted

    @property
    def first_block(self) -> int:
        """Place in the chain of the first block that is wanted."""
        return self.wanted.first_block

    @property
    def num_blocks(self) -> int:
        """Blocks that are wanted."""
        return self.wanted.num_blocks


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What became of a WriteOrder."""

    order: WriteOrder
    errno: int | None  # None: the file is there, whole; 0: it was never begun
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ReadOutcome:
    """What became of a ReadOrder, without the payload."""

    order: ReadOrder
    problem: ReadProblem | None
    seconds: float = 0.0  # with verification
