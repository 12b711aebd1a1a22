"""The disk tier's files and index: rates of writing and reading, the index's time, what a busy hour writes.

    python -m pensieve.bench.micro.disk_store --folder ~/.cache
    python -m pensieve.bench.micro.disk_store --folder ~/.cache --megabytes 512 --block-bytes 4718592

Files are written as the server writes them, synced, and read with their sha256. What is read was just
written, so that it comes from memory: a disk that is slower than sha256 adds its own time. The hour is played
with a clock of its own, without files.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections import abc
from pathlib import Path

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.chains import Chain
from pensieve.cache.disk.disk_room import DiskLimits
from pensieve.cache.disk.folder import open_folder
from pensieve.cache.disk.folder_thread import Job
from pensieve.cache.disk.index import DiskIndex
from pensieve.cache.disk.orders import WriteOutcome
from pensieve.cache.disk.segment_file import try_read, try_write

ROOT = bytes(32)
NO_LIMIT = DiskLimits(10**15, 10**15, 0)


def prompt(numbers: random.Random, num_tokens: int) -> list[int]:
    """Make a prompt of random tokens."""
    return [numbers.randrange(150_000) for _ in range(num_tokens)]


def chain_of(tokens: list[int]) -> Chain:
    """Return the digests of a prompt."""
    chain = Chain(ROOT)
    chain.extend(tokens)
    return chain


def spread(values: list[float], unit: str) -> str:
    """Return median and range."""
    return f"{statistics.median(values):8.2f} {unit} ({min(values):.2f} to {max(values):.2f})"


def measure_files(folder: Path, total_bytes: int, file_bytes: int) -> None:
    """Print the rates of files of one size."""
    writes, reads = [], []
    with open_folder(folder / f"files-{file_bytes}", run=at_once) as opened:
        index = DiskIndex(opened, ROOT, file_bytes, NO_LIMIT)
        content = os.urandom(file_bytes)
        for seed in range(max(3, total_bytes // file_bytes)):
            chain = chain_of(prompt(random.Random(seed), BLOCK_SIZE))
            (order,) = index.writes.plan(chain, 1, True).orders
            written = try_write(order, [content])
            index.writes.note_written(written)
            (wanted,) = index.find(chain)
            outcome, payload = try_read(wanted)
            assert written.errno is None
            assert payload is not None
            assert bytes(payload) == content
            writes.append(file_bytes / written.seconds / 1e6)
            reads.append(file_bytes / outcome.seconds / 1e6)
    size = f"{file_bytes / 1e6:6.2f} MB a file"
    print(f"{size}: written at {spread(writes, 'MB/s')}, read at {spread(reads, 'MB/s')}, {len(reads)} files")


def at_once(job: Job) -> None:
    """Do what waits for the disk now, so that all is counted."""
    job()


def measure_index(folder: Path, num_tokens: int) -> None:
    """Print what the event loop pays for a long prompt, and for a start."""
    with open_folder(folder / "index", run=at_once) as opened:
        index = DiskIndex(opened, ROOT, 64, NO_LIMIT)
        tokens = prompt(random.Random(0), num_tokens)
        times: dict[str, float] = {}

        def timed(name: str, call: abc.Callable[[], object]) -> object:
            begun = time.perf_counter()
            result = call()
            times[name] = time.perf_counter() - begun
            return result

        chain = chain_of(tokens)
        timed("digests", lambda: chain_of(tokens))
        timed("nothing found", lambda: index.find(chain))
        orders = index.writes.plan(chain, chain.num_blocks, True).orders
        for order in orders:
            index.writes.note_written(try_write(order, [bytes(order.payload_bytes)]))
        timed("all found", lambda: index.find(chain))
        timed("nothing to write", lambda: index.writes.plan(chain, chain.num_blocks, True))
        for seed in range(1, 500):
            (order,) = index.writes.plan(chain_of(prompt(random.Random(seed), BLOCK_SIZE)), 1, True).orders
            index.writes.note_written(try_write(order, [bytes(64)]))
        timed("a start", lambda: DiskIndex(opened, ROOT, 64, NO_LIMIT))
        words = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in times.items())
        print(f"{num_tokens:,} tokens: {words} ({index.stats.num_files} files)")


def play_hour(folder: Path, block_bytes: int, limit_bytes: int) -> None:
    """Print what an hour of 16 sessions writes: 30 turns of each, of 600 tokens, after 24,000 that all share.

    Beside each turn there is a side request of 600 tokens that no other one goes on from.
    """
    clock = [0.0]
    numbers = random.Random(1)
    shared = prompt(numbers, 24_000)
    sessions = [[*shared] for _ in range(16)]
    num_tokens = len(shared)
    with open_folder(folder / "hour", run=at_once) as opened:
        limits = DiskLimits(limit_bytes, hourly_bytes=limit_bytes, keep_free_bytes=0)
        index = DiskIndex(opened, ROOT, block_bytes, limits, lambda: clock[0])

        def save(tokens: list[int], is_reused: bool) -> None:
            chain = chain_of(tokens)
            for order in index.writes.plan(chain, chain.num_blocks, is_reused).orders:
                index.writes.note_written(WriteOutcome(order, None))

        for turn in range(30):
            for session in sessions:
                clock[0] += 3600 / 30 / len(sessions)
                session += prompt(numbers, 600)
                num_tokens += 600
                save(session, is_reused=turn > 0)
                save(prompt(numbers, 600), is_reused=False)
        found = sum(order.num_blocks for session in sessions for order in index.find(chain_of(session)))
        wanted = sum(len(session) // BLOCK_SIZE for session in sessions)
        stats = index.stats
        token_bytes = block_bytes / BLOCK_SIZE
        print(
            f"an hour, {token_bytes / 1000:.0f} kB a token, limit {limit_bytes / 1e9:.0f} GB: "
            f"the sessions have {num_tokens:,} tokens, {num_tokens * token_bytes / 1e9:.1f} GB; written "
            f"{stats.written_bytes / 1e9:.1f} GB, {stats.num_skipped} writes skipped; at the end "
            f"{100 * found / wanted:.1f} % of the sessions' blocks are there"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to measure")
    parser.add_argument("--megabytes", type=int, default=256, help="written for each size of file")
    parser.add_argument("--block-bytes", type=int, nargs="*", default=[147_456 * 32, 32_768 * 32])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="disk-store-") as name:
        for file_bytes in (2**16, 2**20, 2**24, 2**26):
            measure_files(Path(name), min(arguments.megabytes * 10**6, 300 * file_bytes), file_bytes)
        measure_index(Path(name), 60_000)
        for block_bytes in arguments.block_bytes:
            play_hour(Path(name), block_bytes, 16_000_000_000)


if __name__ == "__main__":
    main()
