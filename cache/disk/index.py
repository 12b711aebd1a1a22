"""The index of the disk tier: what is on disk, and what shall be read and removed.

The server's process has it. The engine's process, which has the KV, writes and reads the files that it is
told to (`segment_file.py`), and removes none. Nothing here waits for the disk, but for the start: what is
removed is removed by a thread of its own (`folder_chores.py`).
"""

import time
from collections import abc
from pathlib import Path

from .chains import Chain
from .disk_room import DiskLimits, DiskRoom
from .disk_stats import DiskStats
from .folder import DiskFolder
from .folder_chores import FolderChores
from .folder_scan import scan_folder
from .orders import ReadOrder, ReadOutcome, key_of
from .planned_writes import PlannedWrites
from .read_rules import ReadPace, ReadRate
from .segment_file import file_size
from .stored_files import StoredFile
from .write_rules import Clock, FailurePauses, WriteBudget


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
        self._folder = folder
        self._chores = FolderChores(folder, clock)
        self._room = DiskRoom(self._chores, limits, clock)
        self._pauses = FailurePauses(clock)
        self._rate = ReadRate(clock)
        self._clock = clock
        model_folder = folder.model_folder(fingerprint)
        budget = WriteBudget(limits.hourly_bytes, clock)
        self.writes = PlannedWrites(model_folder, block_bytes, self._room, budget, self._pauses)
        self._room.stats.num_damaged += scan_folder(folder, model_folder, self._room)
        self._room.shrink()  # the limit may be lower than it was

    def chain(self, tokens: abc.Sequence[int], space: bytes) -> Chain:
        """Return the chain of `tokens`, which only requests of the same space find."""
        chain = Chain(self.root, space)
        chain.extend(tokens)
        return chain

    @property
    def place(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def stats(self) -> DiskStats:
        """What the tier has done, and the folder's present size."""
        self._room.settle()
        stats, files = self._room.stats, self._room.files
        stats.num_files, stats.num_blocks, stats.is_off = len(files), files.num_blocks, self._is_off
        return stats

    @property
    def _is_off(self) -> bool:
        return self._pauses.is_off or self._room.is_stuck

    def find(self, chain: Chain, first_block: int = 0, end_block: int | None = None) -> list[ReadOrder]:
        """Return orders for the blocks of `chain` from `first_block` on, as far as they are on disk."""
        orders: list[ReadOrder] = []
        end = chain.num_blocks if end_block is None else min(end_block, chain.num_blocks)
        while first_block < end and not self._is_off:
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
        if self._is_off:
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

    def begin_restore(self, orders: abc.Sequence[ReadOrder]) -> ReadPace:
        """Keep the files of `orders` until end_restore(); return the measure of their pace."""
        for order in orders:
            if file := self._room.files.get(order.path):
                self._room.files.hold(file)
        return ReadPace(sum(order.payload_bytes for order in orders), self._clock)

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
                self._chores.mark_used(file.path)

    def note_read(self, outcome: ReadOutcome) -> None:
        """Take note of a read. A file that is unreadable or damaged is removed; one that was late stays."""
        order, stats = outcome.order, self._room.stats
        if outcome.problem is None:
            num_bytes = file_size(order.file_blocks, order.payload_bytes)
            self._rate.measured(num_bytes, outcome.seconds)
            stats.num_reads += 1
            stats.read_bytes += num_bytes
            return
        stats.num_damaged += outcome.problem == "damaged"
        stats.num_read_failures += outcome.problem != "damaged"
        if outcome.problem == "late":
            self._rate.unfinished(file_size(order.file_blocks, order.payload_bytes), outcome.seconds)
            return
        if outcome.problem == "failed":
            self._pauses.failed("a file cannot be read")
        if file := self._room.files.get(order.path):
            self._room.drop(file)

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
                    self.writes.forget(file.path)

    def close(self) -> None:
        """Let another server use the folder."""
        self._folder.close()

    def _read_order(self, file: StoredFile, chain: Chain, first: int, end: int) -> ReadOrder:
        wanted = key_of(chain, file.kind, first, end)
        offset = first - file.first_block
        return ReadOrder(file.path, wanted, file.payload_bytes, len(file.digests), offset)
