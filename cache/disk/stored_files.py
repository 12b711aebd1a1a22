"""Which files there are, which blocks of which chains they hold, and which of them go first.

Digests lead to files: those of a file's own blocks, and that of the prefix before it, where another file ends
or branches. A file goes only when no other one goes on from its blocks, so that what stays can be reached.
Among those, the file of least worth goes: its uses since the server's start, plus the worth of what went
before its last use, so that unused ones age. At a start all count as unused, those changed last as newest.
Source: LFU with dynamic aging (Arlitt et al. 2000), which is LRU for files that are used equally often.
"""

import heapq
from collections import abc

from .orders import FileKey, FileKind

MOST_USES = 8
"""Uses above this number do not count: what was popular long ago must go some time."""


class StoredFile:
    """A file of ours, written or being written."""

    __slots__ = (
        "digests",
        "disk_bytes",
        "first_block",
        "is_written",
        "kind",
        "num_holders",
        "num_uses",
        "parent",
        "path",
        "payload_bytes",
        "used_at",
        "worth",
    )

    def __init__(self, path: str, key: FileKey, payload_bytes: int, disk_bytes: int) -> None:
        self.path = path
        self.kind: FileKind = key.kind
        self.parent = key.parent
        self.first_block = key.first_block
        self.digests = key.digests  # after each of its blocks
        self.payload_bytes = payload_bytes
        self.disk_bytes = disk_bytes
        self.is_written = False
        self.num_holders = 0  # who needs the file to stay: reads, and writes of what goes on from it
        self.num_uses = 0
        self.used_at = 0  # a count of uses, not a time
        self.worth = 0.0


class StoredFiles:
    """All files of one model's KV, with the order in which they go."""

    def __init__(self) -> None:
        self.num_blocks = 0  # of KV, in files that are written
        self._by_path: dict[str, StoredFile] = {}
        self._blocks: dict[bytes, tuple[StoredFile, int]] = {}  # digest after a block -> its file, its place
        self._states: dict[bytes, StoredFile] = {}  # digest after the prefix
        self._next: dict[bytes, set[StoredFile]] = {}  # digest -> files that go on from it
        self._clock = 0
        self._last_worth = 0.0  # of the file that went last
        # Every file that may go is in the heap, perhaps with an outdated worth or a file that is gone.
        self._heap: list[tuple[float, int, int, StoredFile]] = []
        self._num_pushed = 0

    def __len__(self) -> int:
        return len(self._by_path)

    def __iter__(self) -> abc.Iterator[StoredFile]:
        return iter(self._by_path.values())

    def get(self, path: str) -> StoredFile | None:
        """Return the file with a path, if there is one."""
        return self._by_path.get(path)

    def block(self, digest: bytes) -> tuple[StoredFile, int] | None:
        """Return the file that has the block whose digest is given, and the block's place in it."""
        return self._blocks.get(digest)

    def state(self, digest: bytes) -> StoredFile | None:
        """Return the file of the state after the prefix whose digest is given."""
        return self._states.get(digest)

    def after(self, digest: bytes) -> set[StoredFile]:
        """Return the files that go on from the prefix whose digest is given, its state among them."""
        return set(self._next.get(digest, ()))

    def overlaps(self, file: StoredFile) -> bool:
        """Whether another file has a block, or the state, that `file` has."""
        known: abc.Container[bytes] = self._states if file.kind == "state" else self._blocks
        return any(digest in known for digest in file.digests)

    def add(self, file: StoredFile) -> None:
        """Add a file; no other one may have a block of it."""
        assert not self.overlaps(file), f"{file.path} is there twice"
        self._by_path[file.path] = file
        if file.kind == "state":
            self._states[file.digests[-1]] = file
        else:
            self._blocks.update({digest: (file, place) for place, digest in enumerate(file.digests)})
        self._next.setdefault(_follows(file), set()).add(file)
        self.touch(file)
        self._push(file)

    def remove(self, file: StoredFile) -> None:
        """Forget a file; whatever goes on from it stays, and can be found once its blocks are there again."""
        del self._by_path[file.path]
        if file.kind == "state":
            del self._states[file.digests[-1]]
        else:
            self.num_blocks -= len(file.digests) * file.is_written
            for digest in file.digests:
                del self._blocks[digest]
        followers = self._next[_follows(file)]
        followers.remove(file)
        if not followers:
            del self._next[_follows(file)]
            if parent := self._blocks.get(_follows(file)):
                self._push(parent[0])

    def touch(self, file: StoredFile) -> None:
        """Note that a file is of use now."""
        self._clock += 1
        file.used_at = self._clock
        file.worth = self._last_worth + 1 + min(file.num_uses, MOST_USES)

    def written(self, file: StoredFile) -> None:
        """Note that a file is there, whole."""
        file.is_written = True
        self.num_blocks += len(file.digests) * (file.kind == "kv")
        self._push(file)

    def hold(self, file: StoredFile) -> None:
        """Keep a file from going until it is released as often."""
        file.num_holders += 1

    def release(self, file: StoredFile) -> None:
        """Undo one hold()."""
        assert file.num_holders > 0, f"{file.path} has no holder"
        file.num_holders -= 1
        self._push(file)

    def pop_least(self) -> StoredFile | None:
        """Remove and return the file that goes first; None where none may go."""
        while self._heap:
            worth, used_at, _, file = heapq.heappop(self._heap)
            if self._by_path.get(file.path) is not file or not self._may_go(file):
                continue
            if (worth, used_at) != (file.worth, file.used_at):
                self._push(file)
                continue
            self._last_worth = max(self._last_worth, worth)
            self.remove(file)
            return file
        return None

    def _may_go(self, file: StoredFile) -> bool:
        if not file.is_written or file.num_holders:
            return False
        return file.kind == "state" or not any(digest in self._next for digest in file.digests)

    def _push(self, file: StoredFile) -> None:
        """Put a file into the heap once more. One that may not go now is put there when that changes."""
        if len(self._heap) > 2 * len(self._by_path) + 100:
            self._heap = [(one.worth, one.used_at, 0, one) for one in self if self._may_go(one)]
            heapq.heapify(self._heap)  # no two files were used last at the same count
        if self._may_go(file):
            self._num_pushed += 1  # a tie-break: files cannot be compared
            heapq.heappush(self._heap, (file.worth, file.used_at, self._num_pushed, file))


def _follows(file: StoredFile) -> bytes:
    """Return the digest of the prefix from which a file goes on: a state needs the KV of its block."""
    return file.digests[-1] if file.kind == "state" else file.parent
