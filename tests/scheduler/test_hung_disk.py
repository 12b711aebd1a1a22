"""A disk whose calls do not return, as a network mount that has lost its server: only the tier waits."""

import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pensieve.cache.disk import folder_chores
from pensieve.cache.disk.file_layer import FileLayer
from pensieve.cache.disk.folder_thread import FolderThread

from .disk_oracle import DiskDriver
from .driver import prompt_of, request
from .oracle import spell

MOST_S = 60


class HungLayer(FileLayer):
    """Once `is_hung`, calls on the folder wait until the test lets them go; none is the main thread's."""

    def __init__(self) -> None:
        self.is_hung = False
        self.released = threading.Event()
        self.called = threading.Event()

    def _wait(self) -> None:
        if self.is_hung:
            assert threading.current_thread() is not threading.main_thread()
            self.called.set()
            assert self.released.wait(MOST_S)

    def remove(self, path: str) -> None:
        self._wait()
        super().remove(path)

    def status(self, path: str) -> os.stat_result:
        self._wait()
        return super().status(path)

    def mark_used(self, path: str) -> None:
        self._wait()
        super().mark_used(path)

    def free_bytes(self, folder: Path) -> int:
        self._wait()
        return super().free_bytes(folder)


@pytest.fixture
def layer() -> Iterator[HungLayer]:
    layer = HungLayer()
    yield layer
    layer.released.set()


def test_requests_go_on_beside_a_disk_that_hangs(
    tmp_path: Path, layer: HungLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread = FolderThread()
    with DiskDriver(tmp_path, random.Random(1), files=layer, run=thread, limit_bytes=30_000) as driver:

        def ask(seed: int) -> None:
            sequence = driver.scheduler.add(request(prompt_of(seed, 1000), 4))
            while sequence.finish_reason is None:
                driver.step()
            assert sequence.tokens == spell(prompt_of(seed, 1000), 4)

        ask(1)
        driver.finish()
        assert driver.index.stats.num_writes
        layer.is_hung = True
        ask(1)
        new = itertools.count(2)
        while not layer.called.is_set():  # older KV is to make room
            ask(next(new))
        ask(next(new))
        assert driver.scheduler.disk.is_busy
        monkeypatch.setattr(folder_chores, "LATE_S", 0.0)
        driver.finish()
        assert driver.index.stats.is_off
        assert len(caplog.records) == 1
        ask(1)
        driver.finish()

        layer.released.set()
        done = threading.Event()
        thread(done.set)
        assert done.wait(MOST_S)
        monkeypatch.undo()
        assert not driver.index.stats.is_off
        num_writes = driver.index.stats.num_writes
        ask(next(new))
        driver.finish()
        assert driver.index.stats.num_writes > num_writes
