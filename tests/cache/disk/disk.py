"""A disk tier as the two processes use it, without a model: payloads are made of digests of tokens."""

import hashlib
import random
from collections import abc
from pathlib import Path

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.chains import BLOCK_TOKEN_BYTES, Chain
from pensieve.cache.disk.disk_room import DiskLimits
from pensieve.cache.disk.file_layer import Buffer, FileLayer
from pensieve.cache.disk.folder import disk_bytes, open_folder
from pensieve.cache.disk.folder_thread import Job
from pensieve.cache.disk.index import DiskIndex
from pensieve.cache.disk.orders import FileKey, ReadOrder, WriteOrder, WriteOutcome
from pensieve.cache.disk.segment_file import try_read, try_write

ROOT = hashlib.sha256(b"a model").digest()
BLOCK_BYTES = 1000
STATE_BYTES = 3000


class FailingLayer(FileLayer):
    """A disk that fails: `fail` gets each call's name and returns the errno of its error, or None."""

    def __init__(self, fail: abc.Callable[[str], int | None] = lambda name: None) -> None:
        self.fail = fail
        self.free = 10**15

    def _check(self, name: str) -> None:
        if code := self.fail(name):
            raise OSError(code, "as the test wants it")

    def open_new(self, path: str) -> int:
        self._check("open")
        return super().open_new(path)

    def open_existing(self, path: str) -> int:
        self._check("read")
        return super().open_existing(path)

    def write(self, handle: int, data: Buffer) -> int:
        self._check("write")
        return super().write(handle, memoryview(data)[:500])  # not all at once

    def read_into(self, handle: int, buffer: memoryview) -> int:
        self._check("read")
        return super().read_into(handle, buffer[:700])

    def sync(self, handle: int) -> None:
        self._check("sync")

    def rename(self, path: str, new_path: str) -> None:
        self._check("rename")
        super().rename(path, new_path)

    def remove(self, path: str) -> None:
        self._check("remove")
        super().remove(path)

    def free_bytes(self, folder: Path) -> int:
        self._check("free")
        return self.free


def at_once(job: Job) -> None:
    """Run what may wait for the disk now, rather than in a thread."""
    job()


class Disk:
    """A folder, its index and a clock that the test turns."""

    def __init__(self, path: Path, limit: int = 10**6, hourly: int = 10**12, root: bytes = ROOT) -> None:
        self.path = path
        self.now = 0.0
        self.files = FailingLayer()
        self.folder = open_folder(path, self.files, at_once)
        self.limit = limit
        limits = DiskLimits(limit, hourly, keep_free_bytes=10_000)
        self.folder.model_folder(root)
        self.folder_bytes = sum(disk_bytes(one.stat().st_size) for one in path.rglob("*") if one.is_dir())
        self.index = DiskIndex(self.folder, root, BLOCK_BYTES, limits, lambda: self.now)

    def save(self, tokens: list[int], is_reused: bool = True) -> int:
        """Write what is missing of a prompt's full blocks; return how many files were written."""
        chain = self.chain(tokens)
        orders = self.index.writes.plan(chain, chain.num_blocks, is_reused).orders
        return sum([self.write(order).errno is None for order in orders])

    def save_state(self, tokens: list[int]) -> bool:
        chain = self.chain(tokens)
        orders = self.index.writes.plan_state(chain, chain.num_blocks, STATE_BYTES, True).orders
        return sum([self.write(order).errno is None for order in orders]) > 0

    def write(self, order: WriteOrder) -> WriteOutcome:
        self.check_limit()
        outcome = try_write(order, self.watched(payload(order.key, order.payload_bytes)), self.files)
        self.index.writes.note_written(outcome)
        self.check_limit()
        return outcome

    def watched(self, content: bytes) -> abc.Iterator[bytes]:
        """Yield a payload in pieces, and look at the folder after each."""
        for start in range(0, len(content), 4000):
            yield content[start : start + 4000]
            self.check_limit()

    def load(self, tokens: list[int]) -> int:
        """Return how many blocks of a prompt are on disk and have the right payload; others are a failure."""
        num_blocks = 0
        orders = self.index.find(self.chain(tokens))
        self.index.begin_restore(orders)
        for order in orders:
            if not self.read(order):
                break
            num_blocks += order.num_blocks
        self.index.end_restore(orders, num_blocks > 0)
        return num_blocks

    def load_state(self, tokens: list[int]) -> int:
        """Return after how many blocks of a prompt a state was found."""
        chain = self.chain(tokens)
        order = self.index.find_state(chain, chain.num_blocks)
        return order.first_block + 1 if order is not None and self.read(order) else 0

    def read(self, order: ReadOrder) -> bool:
        outcome, content = try_read(order, self.files)
        self.index.note_read(outcome)
        assert (content is None) == (outcome.problem is not None)
        if content is None:
            return False
        if order.wanted.kind == "state":
            assert content == payload(order.wanted, STATE_BYTES)
        else:
            start = order.offset * BLOCK_BYTES
            size = order.num_blocks * BLOCK_BYTES
            assert content[start : start + size] == payload(order.wanted, size)
        return True

    def chain(self, tokens: list[int]) -> Chain:
        chain = Chain(self.index.root)
        chain.extend(tokens)
        return chain

    def sizes(self) -> dict[Path, int]:
        """Return what each file in the folder takes."""
        return {path: disk_bytes(path.lstat().st_size) for path in self.path.rglob("*") if not path.is_dir()}

    def check_limit(self) -> None:
        """What lies there now is within the limit, and was counted before it was written."""
        assert sum(self.sizes().values()) <= self.index.stats.used_bytes <= self.limit

    def check_accounts(self, may_miss: bool = False) -> None:
        """What the index has is what lies there. may_miss: files went that the index still believes in."""
        self.check_limit()
        if may_miss:
            return
        assert self.index.stats.used_bytes == sum(self.sizes().values()) + self.folder_bytes
        assert self.index.stats.num_files == len(self.kept())

    def lose(self, numbers: random.Random) -> None:
        """Remove a file behind the index's back."""
        if kept := self.kept():
            numbers.choice(kept).unlink()

    def kept(self) -> list[Path]:
        """Return the files of this model."""
        return [path for path in self.sizes() if path.parent.name == self.index.root.hex()]

    def close(self) -> None:
        self.folder.close()


def payload(key: FileKey, size: int) -> bytes:
    """Return content that tells of which blocks it is, after which prefix."""
    tokens, parts = key.tokens, []
    num_blocks = len(tokens) // BLOCK_TOKEN_BYTES
    for digest in key.digests:
        rest = size // num_blocks
        parts.append(random.Random(digest).randbytes(rest))
    return b"".join(parts)


def prompt(random_numbers: random.Random, num_blocks: int, before: list[int] | None = None) -> list[int]:
    """Return tokens of full blocks that go on from others."""
    return (before or []) + [random_numbers.randrange(2**17) for _ in range(num_blocks * BLOCK_SIZE)]
