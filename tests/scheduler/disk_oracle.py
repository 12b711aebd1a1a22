"""An oracle that saves tokens to real files and restores them, as the engine does with KV and states."""

import random
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.disk_room import DiskLimits
from pensieve.cache.disk.file_layer import FileLayer
from pensieve.cache.disk.folder import open_folder
from pensieve.cache.disk.folder_thread import Job, Run
from pensieve.cache.disk.index import DiskIndex
from pensieve.cache.disk.orders import ReadOutcome, WriteOutcome
from pensieve.cache.disk.segment_file import try_read, try_write
from pensieve.engine.served_model import PoolLayout, WindowPool
from pensieve.engine.step import NO_BLOCK, RestoreOrder, StepFailed, StepPlan, StepsDone
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.scheduler import Scheduler

from ..stepper import Stepper
from .oracle import OracleRunner

BLOCK_BYTES = 4 * BLOCK_SIZE
STATE_TOKENS = 400
FINGERPRINT = bytes(range(32))


class SomeTime:
    """Runs what may wait for the disk, in order, but not before a later step."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._jobs: deque[Job] = deque()

    def __call__(self, job: Job) -> None:
        self._jobs.append(job)

    def go_on(self) -> None:
        while self._jobs and self._rng.random() < 0.6:
            self._jobs.popleft()()

    def finish(self) -> None:
        while self._jobs:
            self._jobs.popleft()()


class DiskOracle(OracleRunner):
    """num_failed: files that could not be read. Files take some steps; `rng` says how many."""

    def __init__(
        self,
        rng: random.Random,
        num_slots: int,
        lag: int,
        breaks: Callable[[StepPlan], bool],
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        super().__init__(num_slots, lag, breaks, num_state_slots, window)
        self.num_failed = 0
        self.jobs = SomeTime(rng)
        self._rng = rng
        self._reading: list[RestoreOrder] = []
        self._outcomes: list[WriteOutcome | ReadOutcome] = []

    @property
    def layout(self) -> PoolLayout:
        state_bytes = 4 * STATE_TOKENS if self._states else 0
        return PoolLayout("oracle", BLOCK_BYTES, state_bytes, BLOCK_BYTES if self._window else 0)

    def step(self, plan: StepPlan) -> StepsDone:
        self.jobs.go_on()
        self._reading += plan.restores
        given_up = [one for one in self._reading if one.read.path in plan.abandons]
        self._reading = [one for one in self._reading if one not in given_up]
        self._outcomes += [ReadOutcome(one.read, "late") for one in given_up]
        while self._reading and self._rng.random() < 0.7:
            self._restore(self._reading.pop(0))
        for order in plan.saves:
            content = _bytes_of(self._slots, order.blocks)
            if order.state_slot is not None:
                state = self._states[order.state_slot]
                content += np.array(state + [-2] * (STATE_TOKENS - len(state)), np.int32).tobytes()
            content += _bytes_of(self._window_slots, order.window)
            self._outcomes.append(try_write(order.write, [content]))
        try:
            return self._with_outcomes(super().step(plan))
        except StepFailed:
            self._reading, self._outcomes = [], []
            raise

    def drain(self) -> StepsDone:
        return self._with_outcomes(super().drain())

    def _with_outcomes(self, done: StepsDone) -> StepsDone:
        if not done.results:
            return done
        outcomes, self._outcomes = self._outcomes, []
        written = [outcome for outcome in outcomes if isinstance(outcome, WriteOutcome)]
        restored = [outcome for outcome in outcomes if isinstance(outcome, ReadOutcome)]
        last = replace(done.results[-1], written=written, restored=restored)
        return done._replace(results=(*done.results[:-1], last))

    def _restore(self, order: RestoreOrder) -> None:
        outcome, payload = try_read(order.read)
        self._outcomes.append(outcome)
        self.num_failed += payload is None
        if payload is None:
            return
        tokens = np.frombuffer(payload, np.int32).tolist()
        for slots, blocks in ((self._slots, order.blocks), (self._window_slots, order.window)):
            if slots is self._window_slots and order.state_slot is not None:
                self._states[order.state_slot] = [token for token in tokens[:STATE_TOKENS] if token != -2]
                tokens = tokens[STATE_TOKENS:]
            for block in blocks:
                held, tokens = tokens[:BLOCK_SIZE], tokens[BLOCK_SIZE:]
                if block != NO_BLOCK:
                    slots[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = held
        assert not tokens


def _bytes_of(slots: list[int], blocks: tuple[int, ...]) -> bytes:
    tokens = [slots[slot] for block in blocks for slot in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)]
    return np.array(tokens, np.int32).tobytes()


class DiskDriver(Stepper):
    """A scheduler over an oracle, with a disk tier in `folder`. A context manager."""

    runner: DiskOracle

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        num_blocks: int = 64,
        lag: int = 0,
        max_batch: int = 8,
        breaks: Callable[[StepPlan], bool] = lambda _: False,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
        limit_bytes: int = 10**9,
        files: FileLayer | None = None,
        run: Run | None = None,
    ) -> None:
        runner = DiskOracle(rng, num_blocks * BLOCK_SIZE, lag, breaks, num_state_slots, window)
        config = SchedulerConfig(max_batch, 64)
        super().__init__(Scheduler(config, num_blocks, 100_000, num_state_slots, window), runner)
        self._files = ExitStack()
        opened = open_folder(folder, files, run or runner.jobs)
        self._files.callback(opened.close)
        limits = DiskLimits(limit_bytes, 10**12, keep_free_bytes=0)
        self.index = DiskIndex(opened, FINGERPRINT, BLOCK_BYTES, limits)
        self.scheduler.disk.open(self.index, runner.layout)

    def __enter__(self) -> "DiskDriver":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
