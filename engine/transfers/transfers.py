"""The saves and restores of steps: between the pools, which are the main thread's, and the disk's thread.

Before a step computes anything, the contents of files that were read are pasted into the pools, and what the
plan saves is copied. The copies are written once the step's result is read: on a device that computes by
itself they are ready then, and nothing has waited for them.
"""

import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from ...cache.disk.orders import ReadOutcome, WriteOutcome
from ..step import RestoreOrder, SaveOrder, StepPlan
from .disk_thread import DiskThread, Loaded
from .pool_bytes import PoolBytes, as_bytes

logger = logging.getLogger(__name__)

PASTED_BYTES = 2**24
"""Most bytes that are pasted before a step with decode rows: their readers wait meanwhile. One file is."""

READ_S = 10.0
"""Seconds after which a file that is not read yet is waited for no more: its tokens are computed instead."""

PAUSE_S = 0.005
"""Most seconds that a step without anything to compute waits for the disk."""


class SavedCopy(NamedTuple):
    """What a plan saves, copied."""

    order: SaveOrder
    copies: list[Any]  # arrays of NumPy or MLX


class _Reading(NamedTuple):
    """A file that was asked for."""

    order: RestoreOrder
    asked_s: float


class Transfers:
    """The orders under way."""

    def __init__(self, disk: DiskThread) -> None:
        self._disk = disk
        self._reading: dict[str, _Reading] = {}  # by path, the one that was asked for first comes first
        self._ready: list[tuple[RestoreOrder, Loaded]] = []  # read, but not in the pools
        self._written: list[WriteOutcome] = []
        self._restored: list[ReadOutcome] = []

    def begin(self, plan: StepPlan, pools: PoolBytes) -> list[SavedCopy]:
        """Paste what has been read, begin to read what `plan` restores, and copy what it saves.

        Give the copies to `write` once they are evaluated.
        """
        for order in plan.restores:
            self._reading[order.read.path] = _Reading(order, time.monotonic())
            self._disk.read(order.read, partial(self._is_wanted, order))
        if not (plan.num_tokens or plan.saves or plan.restores):
            self._disk.wait(PAUSE_S)
        self._take()
        self._give_up([path for path in plan.abandons if path in self._reading])
        self._paste(pools, PASTED_BYTES if plan.decode else None)
        return [SavedCopy(order, pools.copy(order)) for order in plan.saves]

    def write(self, saved: list[SavedCopy]) -> None:
        """Write copies that are evaluated."""
        for order, copies in saved:
            self._disk.write(order.write, [as_bytes(each) for each in copies])

    def outcomes(self) -> tuple[list[WriteOutcome], list[ReadOutcome]]:
        """Return the outcomes of orders that have ended since the last call."""
        self._take()
        ended = self._written, self._restored
        self._written, self._restored = [], []
        return ended

    def forget(self) -> None:
        """Drop every order: the pools are new."""
        self._disk.forget()
        self._reading, self._ready = {}, []
        self._written, self._restored = [], []

    def _is_wanted(self, order: RestoreOrder) -> bool:
        """Whether a file is still waited for. The disk's thread asks as well."""
        reading = self._reading.get(order.read.path)
        return reading is not None and reading.order is order

    def _take(self) -> None:
        written, loaded = self._disk.take()
        self._written += written
        for one in loaded:
            reading = self._reading.get(one[0].order.path)
            if reading is not None and reading.order.read is one[0].order:  # it has not come too late
                del self._reading[one[0].order.path]
                self._ready.append((reading.order, one))
        last_s = time.monotonic() - READ_S
        self._give_up([path for path, reading in self._reading.items() if reading.asked_s < last_s])

    def _give_up(self, paths: list[str]) -> None:
        """Wait no more for some files. Only of the first one is it known that the disk has had its time."""
        now, first = time.monotonic(), next(iter(self._reading), None)
        for path in paths:
            order, asked_s = self._reading.pop(path)
            seconds = now - asked_s if path == first else 0.0
            self._restored.append(ReadOutcome(order.read, "late", seconds))

    def _paste(self, pools: PoolBytes, most_bytes: int | None) -> None:
        num_bytes = 0
        while self._ready and (most_bytes is None or num_bytes < most_bytes):
            order, (outcome, payload) = self._ready.pop(0)
            if payload is not None:
                num_bytes += len(payload)
                outcome = _pasted(pools, order, outcome, payload)
            self._restored.append(outcome)


def _pasted(pools: PoolBytes, order: RestoreOrder, outcome: ReadOutcome, payload: memoryview) -> ReadOutcome:
    """Paste `payload`; return the outcome that this has."""
    mx.synchronize()  # MLX would copy pools that a step under way reads
    try:
        pools.paste(order, payload)
    except ValueError as error:
        logger.warning("a file of the disk cache is not what it should be: %s", error)
        return replace(outcome, problem="damaged")
    return outcome
