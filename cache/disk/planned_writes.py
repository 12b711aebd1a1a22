"""The files that are to be written: room is kept for each, from its order until its outcome is known."""

import os
from collections import abc
from pathlib import Path
from typing import Literal, NamedTuple

from .chains import Chain
from .disk_room import DiskRoom, Room
from .disk_stats import DiskStats
from .folder import disk_bytes, file_path
from .orders import FileKey, WriteOrder, WriteOutcome, key_of
from .segment_file import file_size
from .stored_files import StoredFile
from .write_rules import FailurePauses, WriteBudget

MAX_PAYLOAD_BYTES = 64 * 2**20
"""Most KV in a file: the engine's process has a file's content in memory while it reads it."""

MAX_BLOCKS = 64
"""Most blocks of a file: a branch within a file reads it whole."""


Rest = Literal["none", "refused", "awaited"]


class WritePlan(NamedTuple):
    """What is to be written of what was asked for, and why no more of it.

    refused: the disk has no room, the hour no budget, or the disk has just failed; `DiskStats.num_skipped`
    counts that. awaited: room is being made; ask again soon.
    """

    orders: list[WriteOrder]
    rest: Rest


RESTS: dict[Room, Rest] = {"made": "none", "none": "refused", "awaited": "awaited"}

NOTHING = WritePlan([], "none")


class PlannedWrites:
    """Orders for files of one model's KV, and what became of them."""

    def __init__(
        self, model_folder: Path, block_bytes: int, room: DiskRoom, budget: WriteBudget, pauses: FailurePauses
    ) -> None:
        """block_bytes: KV of a block; 0 for a model without attention, of which states are kept alone."""
        self._model_folder, self._block_bytes = model_folder, block_bytes
        self._room, self._budget, self._pauses = room, budget, pauses
        self._writing: dict[str, StoredFile] = {}
        self._unwanted: set[str] = set()  # paths of files that go as soon as they are written

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be written now: the disk has just failed, or for good."""
        return self._pauses.is_paused or self._room.is_stuck

    @property
    def _stats(self) -> DiskStats:
        return self._room.stats

    def plan(self, chain: Chain, num_blocks: int, is_reused: bool) -> WritePlan:
        """Return orders for those of the first `num_blocks` blocks of `chain` that no file has.

        Room is made and kept for each. Each order must come back by note_written() or cancel().
        is_reused: whether two requests have had use of the prefix, or are likely to: see WriteBudget.
        """
        if not self._block_bytes or num_blocks <= 0:
            return NOTHING
        wanted = [
            (key_of(chain, "kv", first, end), chain.digests[end], (end - first) * self._block_bytes)
            for first, end in self._missing(chain, num_blocks)
        ]
        return self._reserve(self._hold_path(chain, num_blocks), wanted, is_reused)

    def plan_state(self, chain: Chain, num_blocks: int, payload_bytes: int, is_reused: bool) -> WritePlan:
        """Return an order for the state after `num_blocks` blocks, as above; none where a file has it."""
        digest = chain.digests[num_blocks]
        if file := self._room.files.state(digest):
            self._room.files.touch(file)
            return NOTHING
        key = key_of(chain, "state", num_blocks - 1, num_blocks)
        return self._reserve(self._hold_path(chain, num_blocks), [(key, digest, payload_bytes)], is_reused)

    def note_written(self, outcome: WriteOutcome) -> None:
        """Take note of a write. What is left of one that failed is removed."""
        path = outcome.order.path
        file = self._writing.pop(path, None)
        if file is None:  # the engine was given up before it reported
            if self._room.files.get(path) is None:
                self._room.discard(path)
        elif outcome.errno is None:
            self._pauses.succeeded()
            self._stats.num_writes += 1
            self._stats.written_bytes += file_size(len(file.digests), file.payload_bytes)
            self._room.files.written(file)
        else:
            if outcome.errno:
                self._stats.num_write_failures += 1
                self._pauses.failed(os.strerror(outcome.errno))
            else:
                self._budget.give_back(file.disk_bytes)
            self._room.drop(file)
        if path in self._unwanted:
            self._unwanted.remove(path)
            if left := self._room.files.get(path):
                self._room.drop(left)

    def cancel(self, order: WriteOrder) -> None:
        """Take note that a file will not be written, and was not begun."""
        self.note_written(WriteOutcome(order, 0))

    def engine_lost(self) -> None:
        """Take note that the engine's process is gone: nothing that it was writing will be finished."""
        for file in self._writing.values():
            self._room.drop(file)
        self._writing.clear()
        self._unwanted.clear()

    def forget(self, path: str) -> None:
        """Have a file that is being written removed as soon as it is there."""
        self._unwanted.add(path)

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

    def _reserve(
        self, path: list[StoredFile], wanted: abc.Iterable[tuple[FileKey, bytes, int]], is_reused: bool
    ) -> WritePlan:
        """Keep room for files, as far as it is there, and return the orders to write them; release `path`.

        wanted: of each file what it is for, the digest after its last block, and the bytes of its payload.
        """
        orders: list[WriteOrder] = []
        room: Room = "made"
        for key, digest, payload_bytes in wanted:
            name = file_path(self._model_folder, digest, key.kind)
            num_bytes = disk_bytes(file_size(key.num_blocks, payload_bytes))
            room = self._take(name, num_bytes, is_reused)
            if room != "made":
                self._stats.num_skipped += room == "none"
                break
            file = StoredFile(name, key, payload_bytes, num_bytes)
            self._room.add(file)
            self._writing[name] = file
            orders.append(WriteOrder(name, key, payload_bytes))
        for file in path:
            self._room.files.release(file)
        return WritePlan(orders, RESTS[room])

    def _take(self, name: str, num_bytes: int, is_reused: bool) -> Room:
        """Take room and budget for a file, if both are there."""
        if self._pauses.is_paused or not self._budget.take(num_bytes, is_reused):
            return "none"
        room = self._room.make(name, num_bytes)
        if room != "made":
            self._budget.give_back(num_bytes)
        return room
