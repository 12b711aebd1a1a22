"""Servers that are killed while they write: what they had finished is there, and nothing is wrong."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from ...budget import trials
from .disk import Disk, prompt

LIMIT = 1_000_000

WRITER = """
import random, sys
from pathlib import Path
from pensieve.cache.disk.file_layer import FileLayer
from pensieve.tests.cache.disk.disk import Disk, prompt

disk = Disk(Path(sys.argv[1]), int(sys.argv[3]))
disk.files.sync = FileLayer().sync
numbers, tokens = random.Random(int(sys.argv[2])), []
print("begins", flush=True)
while True:
    tokens = prompt(numbers, numbers.randrange(1, 30), tokens if numbers.random() < 0.8 else [])
    disk.save(tokens)
    disk.save_state(tokens)
    print(len(tokens), flush=True)
"""


def write_until_killed(folder: Path, seed: int) -> list[list[int]]:
    """Let a process write until it is killed at a random time; return the prompts that it had finished."""
    numbers = random.Random(seed)
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(seed), str(LIMIT)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(random.Random(seed + 1).random() * 0.1)
        process.kill()
        lengths = [int(line) for line in process.stdout if line.endswith("\n")]
    finished, tokens = [], list[int]()
    for length in lengths:
        tokens = prompt(numbers, numbers.randrange(1, 30), tokens if numbers.random() < 0.8 else [])
        assert len(tokens) == length
        finished.append(tokens)
    return finished


def test_what_a_killed_writer_had_finished_is_found_and_nothing_else(tmp_path: Path) -> None:
    num_found = 0
    for seed in range(trials(3, 10, "PENSIEVE_DISK_KILLS")):
        finished = write_until_killed(tmp_path, seed)
        disk = Disk(tmp_path, LIMIT)  # the last one's lock is gone
        disk.check_accounts()
        assert not [path for path in disk.sizes() if path.name.startswith(".")]
        for tokens in finished[-5:]:  # those before have made room, perhaps
            num_found += disk.load(tokens)
            assert disk.load(tokens) == len(disk.chain(tokens).digests) - 1
        for tokens in finished:
            disk.load_state(tokens)
        assert not disk.index.stats.num_damaged
        disk.close()
    assert num_found
