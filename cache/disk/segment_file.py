"""The files of the disk tier: written whole or not at all, and believed only where their hashes are right.

    magic and version   8 bytes
    kind, tokens, first block, bytes of payload, fingerprint, parent's digest     88 bytes
    tokens              4 bytes each
    sha256 of all before it, so that a start reads no payload
    payload
    sha256 of all before it

A file is written under a temporary name, synced and renamed; a process that is killed leaves a temporary
file, or a whole one. This module knows nothing of what the payload means.
"""

import contextlib
import errno
import hashlib
import os
import struct
import time
from collections import abc

from .chains import BLOCK_TOKEN_BYTES, DIGEST_BYTES
from .file_layer import Buffer, FileLayer
from .orders import FileKey, FileKind, ReadOrder, ReadOutcome, ReadProblem, WriteOrder, WriteOutcome

MAGIC = b"PNSV-KV\x01"
"""Its last byte is the version of this format."""

HEAD = struct.Struct("<8sIIQQ32s32s")
KINDS: tuple[FileKind, ...] = ("kv", "state")
MAX_TOKEN_BYTES = 2**20
TEMPORARY = ".new-"
"""First letters of a temporary file's name."""


class FileDamaged(Exception):
    """A file is not what it should be; nothing of it may be used."""


def file_size(num_blocks: int, payload_bytes: int) -> int:
    """Return the size of a file for `num_blocks` blocks."""
    return HEAD.size + num_blocks * BLOCK_TOKEN_BYTES + DIGEST_BYTES + payload_bytes + DIGEST_BYTES


def temporary_path(path: str) -> str:
    """Return the name under which the file is written at first."""
    folder, name = os.path.split(path)
    return os.path.join(folder, TEMPORARY + name)


def try_write(
    order: WriteOrder, chunks: abc.Iterable[Buffer], files: FileLayer | None = None
) -> WriteOutcome:
    """Write a file whose payload is `chunks`, of `order.payload_bytes` bytes together; never raises OSError.

    Hashing and writing let other threads run. After a failure nothing is left, if the disk allows it.
    """
    files = files or FileLayer()
    begun = time.monotonic()
    code = None
    try:
        _write(order, chunks, files)
    except OSError as error:
        code = error.errno or errno.EIO
    return WriteOutcome(order, code, time.monotonic() - begun)


def try_read(order: ReadOrder, files: FileLayer | None = None) -> tuple[ReadOutcome, memoryview | None]:
    """Read a file's payload, verified; None, with the reason in the outcome, where there is none to be used.

    Never raises OSError. Hashing and reading let other threads run.
    """
    begun = time.monotonic()
    payload: memoryview | None = None
    problem: ReadProblem | None = None
    try:
        payload = _read(order, files or FileLayer())
    except FileDamaged:
        problem = "damaged"
    except FileNotFoundError:
        problem = "gone"
    except OSError as error:
        # A link or a pipe in a file's place, or another user's file.
        is_foreign = error.errno in (errno.ELOOP, errno.ENXIO) or isinstance(error, PermissionError)
        problem = "damaged" if is_foreign else "failed"
    return ReadOutcome(order, problem, time.monotonic() - begun), payload


def read_key(path: str, files: FileLayer) -> tuple[FileKey, int]:
    """Return what a file is for, and the bytes of its payload, which is not read.

    Raises FileDamaged, also where the file is longer or shorter than it should be, and OSError.
    """
    handle = files.open_existing(path)
    try:
        size = os.fstat(handle).st_size
        head = _read_exactly(handle, HEAD.size, files)
        num_token_bytes = _num_token_bytes(head)
        rest = _read_exactly(handle, num_token_bytes + DIGEST_BYTES, files)
    finally:
        files.close(handle)
    key, payload_bytes = _parse(memoryview(bytes(head) + bytes(rest)))
    if size != file_size(key.num_blocks, payload_bytes):
        raise FileDamaged(f"{path} has {size} bytes")
    return key, payload_bytes


def _write(order: WriteOrder, chunks: abc.Iterable[Buffer], files: FileLayer) -> None:
    temporary = temporary_path(order.path)
    handle = files.open_new(temporary)
    try:
        _fill(handle, order, chunks, files)
        files.rename(temporary, order.path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    files.sync_folder(os.path.dirname(order.path))


def _fill(handle: int, order: WriteOrder, chunks: abc.Iterable[Buffer], files: FileLayer) -> None:
    """Write a file's content to the disk, and close it."""
    try:
        head = _make_head(order.key, order.payload_bytes)
        digest = hashlib.sha256(head)
        _write_all(handle, head, files)
        num_missing = order.payload_bytes
        for chunk in chunks:
            data = memoryview(chunk).cast("B")
            num_missing -= len(data)
            digest.update(data)
            _write_all(handle, data, files)
        assert num_missing == 0, f"{num_missing} bytes of payload are missing"
        _write_all(handle, digest.digest(), files)
        files.sync(handle)
    finally:
        files.close(handle)


def _write_all(handle: int, data: Buffer, files: FileLayer) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(handle, rest) :]


def _make_head(key: FileKey, payload_bytes: int) -> bytes:
    assert sorted((len(key.fingerprint), len(key.parent))) == [DIGEST_BYTES] * 2
    num_tokens = key.num_blocks * (BLOCK_TOKEN_BYTES // 4)
    fixed = (MAGIC, KINDS.index(key.kind), num_tokens, key.first_block, payload_bytes)
    head = HEAD.pack(*fixed, key.fingerprint, key.parent) + key.tokens
    return head + hashlib.sha256(head).digest()


def _read(order: ReadOrder, files: FileLayer) -> memoryview:
    handle = files.open_existing(order.path)
    try:
        size = os.fstat(handle).st_size
        if size != file_size(order.file_blocks, order.payload_bytes):
            raise FileDamaged(f"{order.path} has {size} bytes")
        content = memoryview(_read_exactly(handle, size, files)).toreadonly()
    finally:
        files.close(handle)
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise FileDamaged(f"{order.path} has another sha256")
    _num_token_bytes(content)
    key, payload_bytes = _parse(content)
    if not _is_wanted(key, order) or payload_bytes != order.payload_bytes:
        raise FileDamaged(f"{order.path} is for other tokens")
    return content[len(content) - DIGEST_BYTES - payload_bytes : -DIGEST_BYTES]


def _is_wanted(key: FileKey, order: ReadOrder) -> bool:
    """Whether a file has what is wanted of it, by its tokens and all that stands before them."""
    wanted, start = order.wanted, order.offset * BLOCK_TOKEN_BYTES
    return (
        (key.kind, key.fingerprint) == (wanted.kind, wanted.fingerprint)
        and key.first_block + order.offset == wanted.first_block
        and key.num_blocks == order.file_blocks
        and key.tokens[start : start + len(wanted.tokens)] == wanted.tokens
        and [key.parent, *key.digests][order.offset] == wanted.parent
    )


def _num_token_bytes(content: Buffer) -> int:
    """Return the bytes of the tokens that follow a file's first ones. Raises FileDamaged."""
    if len(content) < HEAD.size or bytes(content[: len(MAGIC)]) != MAGIC:
        raise FileDamaged("not a file of this version")
    num_token_bytes: int = HEAD.unpack_from(content)[2] * 4
    if not 0 < num_token_bytes <= MAX_TOKEN_BYTES or num_token_bytes % BLOCK_TOKEN_BYTES:
        raise FileDamaged("its tokens fill no blocks")
    return num_token_bytes


def _parse(content: memoryview) -> tuple[FileKey, int]:
    """Return what a file is for and the bytes of its payload. Raises FileDamaged."""
    _, kind, num_tokens, first_block, payload_bytes, fingerprint, parent = HEAD.unpack_from(content)
    end = HEAD.size + num_tokens * 4
    if kind >= len(KINDS) or hashlib.sha256(content[:end]).digest() != content[end : end + DIGEST_BYTES]:
        raise FileDamaged("its head has another sha256")
    return FileKey(
        KINDS[kind], fingerprint, parent, first_block, bytes(content[HEAD.size : end])
    ), payload_bytes


def _read_exactly(handle: int, size: int, files: FileLayer) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        count = files.read_into(handle, rest)
        if count == 0:
            raise FileDamaged("it ends too early")
        rest = rest[count:]
    return content
