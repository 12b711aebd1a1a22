"""The index of the disk tier: what is on disk, what shall be written, read and removed.

The server's process has it. The engine's process, which has the KV, writes and reads the files that it is
told to (`segment_file.py`), and removes none. Nothing here waits for the disk but for removing files.
"""

import os
import time
from collections import abc
from contextlib import suppress
from pathlib import Path

from .chains import Chain
from .disk_room import DiskLimits, DiskRoom
from .disk_stats import DiskStats
from .folder import DiskFolder, disk_bytes, file_path
from .folder_scan import scan_folder
from .orders import FileKey, FileKind, ReadOrder, ReadOutcome, WriteOrder, WriteOutcome
from .segment_file import file_size
from .stored_files import StoredFile
from .write_rules import Clock, FailurePauses, ReadRate, WriteBudget

MAX_PAYLOAD_BYTES = 64 * 2**20
"""Most KV in a file: the engine's process has a file's content in memory while it reads it."""

MAX_BLOCKS = 64
"""Most blocks of a file: a branch within a file reads it whole."""


class DiskIndex:
    """All files of one model's KV in a folder. Not for several threads."""

    def __init__(
        self,
        folder: DiskFolder,
        fingerprint: bytes,
        block_bytes: int,
        limits: DiskLimits,
        clock: Clock = time.monotonic,
    ) -> None:
        """Read the folder. Raises OSError where that of the model cannot be made.

        block_bytes: KV of a block; 0 for a model without attention, of which states are kept alone.
        """
        self.root = fingerprint  # of chains
        self.stats = DiskStats(limits.limit_bytes)
        self._block_bytes = block_bytes
        self._folder = folder
        self._model_folder = folder.model_folder(fingerprint)
        self._room = DiskRoom(folder, limits, self.stats)
        self._budget = WriteBudget(limits.hourly_bytes, clock)
        self._pauses = FailurePauses(clock)
        self._rate = ReadRate()
        self._writing: dict[str, StoredFile] = {}
        self._unwanted: set[str] = set()  # paths of files that go as soon as they are written
        self.stats.num_damaged += scan_folder(folder, self._model_folder, self._room)
        self._room.make(0)  # the limit may be lower than it was
        self._count()

    @property
    def place(self) -> Path:
        """The folder."""
        return self._folder.path

    def find(self, chain: Chain, first_block: int = 0, end_block: int | None = None) -> list[ReadOrder]:
        """Return orders for the blocks of `chain` from `first_block` on, as far as they are on disk."""
        orders: list[ReadOrder] = []
        end = chain.num_blocks if end_block is None else min(end_block, chain.num_blocks)
        while first_block < end and not self._pauses.is_off:
            found = self._room.files.block(chain.digests[first_block + 1])
            if found is None or not found[0].is_written:
                break
            file, offset = found
            end_of_file = min(end, first_block + len(file.digests) - offset)
            last = first_block + 1
            while last < end_of_file and chain.digests[last + 1] == file.digests[offset + last - first_block]:
                last += 1
            orders.append(self._read_order(file, chain, first_block, last))
            first_block = last
        return orders

    def find_state(self, chain: Chain, at_most_blocks: int) -> ReadOrder | None:
        """Return an order for the deepest state after at most so many blocks; None where there is none.

        The state is one after `first_block + 1` blocks of the order.
        """
        if self._pauses.is_off:
            return None
        for num_blocks in range(min(at_most_blocks, chain.num_blocks), 0, -1):
            file = self._room.files.state(chain.digests[num_blocks])
            if file is not None and file.is_written:
                return self._read_order(file, chain, num_blocks - 1, num_blocks)
        return None

    def is_worth_restoring(
        self, orders: abc.Sequence[ReadOrder], num_tokens: int, tokens_per_s: float | None
    ) -> bool:
        """Whether reading these files takes less time than computing `num_tokens` tokens.

        tokens_per_s: how fast they would be computed; None where nothing is known yet.
        """
        sizes = [file_size(order.file_blocks, order.payload_bytes) for order in orders]
        return self._rate.is_worth(sizes, num_tokens / tokens_per_s if tokens_per_s else None)

    def begin_restore(self, orders: abc.Iterable[ReadOrder]) -> None:
        """Keep the files of `orders` until end_restore()."""
        for order in orders:
            if file := self._room.files.get(order.path):
                self._room.files.hold(file)

    def end_restore(self, orders: abc.Iterable[ReadOrder], was_used: bool) -> None:
        """Let the files go again that begin_restore() has kept. was_used: whether they were of use."""
        for order in orders:
            file = self._room.files.get(order.path)
            if file is None or not file.num_holders:
                continue
            self._room.files.release(file)
            if was_used:
                file.num_uses += 1
                self._room.files.touch(file)
                with suppress(OSError):
                    self._folder.files.mark_used(file.path)

    def note_read(self, outcome: ReadOutcome) -> None:
        """Take note of a read. A file that is unreadable or damaged is removed; one that was late stays."""
        order, stats = outcome.order, self.stats
        if outcome.problem is None:
            num_bytes = file_size(order.file_blocks, order.payload_bytes)
            self._rate.measured(num_bytes, outcome.seconds)
            stats.num_reads += 1
            stats.read_bytes += num_bytes
            return
        stats.num_damaged += outcome.problem == "damaged"
        stats.num_read_failures += outcome.problem != "damaged"
        if outcome.problem == "late":
            return
        if outcome.problem == "failed":
            self._note_failure("a file cannot be read")
        if file := self._room.files.get(order.path):
            self._room.drop(file)
        self._count()

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be written now: the disk has just failed, or for good."""
        return self._pauses.is_paused

    def plan_writes(self, chain: Chain, num_blocks: int, is_reused: bool) -> list[WriteOrder]:
        """Return orders for those of the first `num_blocks` blocks of `chain` that no file has.

        Room is made and kept for each. Each order must come back by note_written() or cancel().
        is_reused: whether two requests have had use of the prefix, or are likely to: see WriteBudget.
        The list ends where the disk has no room, the hour no budget, or the disk has just failed:
        `stats.num_skipped` counts that.
        """
        if not self._block_bytes or num_blocks <= 0:
            return []
        path = self._hold_path(chain, num_blocks)
        orders = []
        for first, end in self._missing(chain, num_blocks):
            key = self._key(chain, "kv", first, end)
            order = self._reserve(key, chain.digests[end], (end - first) * self._block_bytes, is_reused)
            if order is None:
                break
            orders.append(order)
        for file in path:
            self._room.files.release(file)
        self._count()
        return orders

    def plan_state(
        self, chain: Chain, num_blocks: int, payload_bytes: int, is_reused: bool
    ) -> WriteOrder | None:
        """Return an order for the state after `num_blocks` blocks; None where a file has it, or as above."""
        digest = chain.digests[num_blocks]
        if file := self._room.files.state(digest):
            self._room.files.touch(file)
            return None
        path = self._hold_path(chain, num_blocks)
        key = self._key(chain, "state", num_blocks - 1, num_blocks)
        order = self._reserve(key, digest, payload_bytes, is_reused)
        for file in path:
            self._room.files.release(file)
        self._count()
        return order

    def note_written(self, outcome: WriteOutcome) -> None:
        """Take note of a write. What is left of one that failed is removed."""
        path = outcome.order.path
        file = self._writing.pop(path, None)
        if file is None:  # the engine was given up before it reported
            if self._room.files.get(path) is None:
                self._room.discard(path)
        elif outcome.errno is None:
            self._pauses.succeeded()
            self.stats.num_writes += 1
            self.stats.written_bytes += file_size(len(file.digests), file.payload_bytes)
            self._room.files.written(file)
        else:
            if outcome.errno:
                self.stats.num_write_failures += 1
                self._note_failure(os.strerror(outcome.errno))
            else:
                self._budget.give_back(file.disk_bytes)
            self._room.drop(file)
        if path in self._unwanted:
            self._unwanted.remove(path)
            if left := self._room.files.get(path):
                self._room.drop(left)
        self._count()

    def cancel(self, order: WriteOrder) -> None:
        """Take note that a file will not be written, and was not begun."""
        self.note_written(WriteOutcome(order, 0))

    def engine_lost(self) -> None:
        """Take note that the engine's process is gone: nothing that it was writing will be finished."""
        for file in self._writing.values():
            self._room.drop(file)
        self._writing.clear()
        self._unwanted.clear()
        self._count()

    def forget(self, chain: Chain, first_block: int = 0) -> None:
        """Remove all KV and states from a block of `chain` on, and all that was computed after them."""
        stack = list(chain.digests[first_block + 1 :])
        seen = set()
        while stack:
            digest = stack.pop()
            if digest in seen:
                continue
            seen.add(digest)
            found = self._room.files.block(digest)
            files = self._room.files.after(digest) | ({found[0]} if found else set())
            for file in files:
                stack += file.digests
                if file.is_written:
                    self._room.drop(file)
                else:
                    self._unwanted.add(file.path)
        self._count()

    def close(self) -> None:
        """Let another server use the folder."""
        self._folder.close()

    def _hold_path(self, chain: Chain, num_blocks: int) -> list[StoredFile]:
        """Return the files that have the first blocks of `chain`: they are of use now, and held."""
        known = map(self._room.files.block, chain.digests[1 : num_blocks + 1])
        path = list(dict.fromkeys(found[0] for found in known if found))
        for file in path:
            self._room.files.hold(file)
            self._room.files.touch(file)
        return path

    def _missing(self, chain: Chain, num_blocks: int) -> abc.Iterator[tuple[int, int]]:
        """Yield ranges of blocks that no file has, each short enough for a file."""
        longest = max(1, min(MAX_BLOCKS, MAX_PAYLOAD_BYTES // self._block_bytes))
        first: int | None = None
        for place, digest in enumerate(chain.digests[1 : num_blocks + 1]):
            is_missing = self._room.files.block(digest) is None
            if first is not None and (not is_missing or place - first == longest):
                yield first, place
                first = None
            if is_missing and first is None:
                first = place
        if first is not None:
            yield first, min(num_blocks, chain.num_blocks)

    def _reserve(self, key: FileKey, digest: bytes, payload_bytes: int, is_reused: bool) -> WriteOrder | None:
        """Keep room for a file, and return the order to write it; None where it cannot be written now."""
        num_bytes = disk_bytes(file_size(key.num_blocks, payload_bytes))
        if self._pauses.is_paused or not self._budget.take(num_bytes, is_reused):
            self.stats.num_skipped += 1
            return None
        if not self._room.make(num_bytes):
            self._budget.give_back(num_bytes)
            self.stats.num_skipped += 1
            return None
        path = file_path(self._model_folder, digest, key.kind)
        file = StoredFile(path, key, payload_bytes, num_bytes)
        self._room.add(file)
        self._writing[path] = file
        return WriteOrder(path, key, payload_bytes)

    def _key(self, chain: Chain, kind: FileKind, first: int, end: int) -> FileKey:
        return FileKey(kind, self.root, chain.digests[first], first, chain.tokens(first, end))

    def _read_order(self, file: StoredFile, chain: Chain, first: int, end: int) -> ReadOrder:
        wanted = self._key(chain, file.kind, first, end)
        offset = first - file.first_block
        return ReadOrder(file.path, wanted, file.payload_bytes, len(file.digests), offset)

    def _note_failure(self, why: str) -> None:
        self._pauses.failed(why)
        self.stats.is_off = self._pauses.is_off

    def _count(self) -> None:
        self.stats.num_files = len(self._room.files)
        self.stats.num_blocks = self._room.files.num_blocks
