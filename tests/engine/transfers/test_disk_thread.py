"""The thread that reads and writes: what it is told to forget leaves nothing behind, and nothing ends it."""

import errno
import threading
from dataclasses import replace

import pytest

from pensieve.cache.disk.orders import FileKey, ReadOrder, ReadOutcome, WriteOrder, WriteOutcome
from pensieve.cache.kv import HostPools
from pensieve.cache.states import HostStates
from pensieve.engine.step import NO_BLOCK, RestoreOrder, StepPlan
from pensieve.engine.transfers import transfers
from pensieve.engine.transfers.disk_thread import DiskThread, Loaded
from pensieve.engine.transfers.pool_bytes import PoolBytes

KEY = FileKey("kv", bytes(32), bytes(32), 0, bytes(128))
NO_POOLS = PoolBytes(HostPools([], 0), HostStates([], 0), [])


def write_order(name: str) -> WriteOrder:
    return WriteOrder(name, KEY, 0)


def read_order(name: str) -> ReadOrder:
    return ReadOrder(name, KEY, 0, 1, 0)


class Gate:
    """Work that goes on only when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.started, self.opened = threading.Event(), threading.Event()

    def write(self, order: WriteOrder, _chunks: object) -> WriteOutcome:
        self.pass_by(order.path)
        return WriteOutcome(order, None)

    def read(self, order: ReadOrder) -> Loaded:
        self.pass_by(order.path)
        return ReadOutcome(order, None), memoryview(b"")

    def pass_by(self, path: str) -> None:
        self.begun.append(path)
        self.started.set()
        assert self.opened.wait(60)


def test_files_are_read_before_those_that_were_to_be_written_earlier() -> None:
    gate = Gate()
    disk = DiskThread(gate.write, gate.read)
    disk.write(write_order("a"), [])
    assert gate.started.wait(60)
    disk.write(write_order("b"), [])
    disk.read(read_order("c"))
    gate.opened.set()
    outcomes = take(disk, 3)
    assert gate.begun == ["a", "c", "b"]
    assert {outcome.order.path for outcome in outcomes} == {"a", "b", "c"}


def take(disk: DiskThread, count: int) -> list[WriteOutcome | ReadOutcome]:
    outcomes: list[WriteOutcome | ReadOutcome] = []
    while len(outcomes) < count:
        disk.wait(60)
        written, loaded = disk.take()
        outcomes += [*written, *(outcome for outcome, _ in loaded)]
    return outcomes


def test_what_is_forgotten_is_not_begun_and_has_no_outcome() -> None:
    gate = Gate()
    disk = DiskThread(gate.write, gate.read)
    disk.write(write_order("a"), [])
    assert gate.started.wait(60)
    disk.write(write_order("b"), [])
    gate.opened.set()
    disk.forget()
    disk.write(write_order("c"), [])
    assert [outcome.order.path for outcome in take(disk, 1)] == ["c"]
    assert "b" not in gate.begun or gate.begun == ["a", "b", "c"]


def test_work_that_raises_fails_and_the_thread_goes_on() -> None:
    calls = []

    def write(order: WriteOrder, _chunks: object) -> WriteOutcome:
        calls.append(order.path)
        if len(calls) == 1:
            raise MemoryError
        return WriteOutcome(order, None)

    disk = DiskThread(write)
    for name in "ab":
        disk.write(write_order(name), [])
    outcomes = take(disk, 2)
    assert [outcome.errno for outcome in outcomes if isinstance(outcome, WriteOutcome)] == [errno.EIO, None]


def test_a_file_that_is_read_too_late_is_waited_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it brings later is not pasted: its blocks may be another sequence's by then."""
    monkeypatch.setattr(transfers, "READ_S", -1.0)
    gate = Gate()
    under_way = transfers.Transfers(DiskThread(gate.write, gate.read))
    under_way.begin(StepPlan(1, restores=[RestoreOrder(read_order("a"), (NO_BLOCK,))]), NO_POOLS)
    _, (outcome,) = under_way.outcomes()
    assert outcome.problem == "late"
    gate.opened.set()
    under_way.begin(StepPlan(2, restores=[RestoreOrder(read_order("b"), (NO_BLOCK,))]), NO_POOLS)
    restored = under_way.outcomes()[1]
    while not restored:
        under_way.begin(StepPlan(3), NO_POOLS)
        restored = under_way.outcomes()[1]
    assert [outcome.order.path for outcome in restored] == ["b"]


def test_what_is_given_up_is_not_read_and_what_is_asked_for_again_is_the_newer_order() -> None:
    """The one under way brings its file in the end: for an order that nobody waits for any more."""
    gate = Gate()
    under_way = transfers.Transfers(DiskThread(gate.write, gate.read))
    orders = [RestoreOrder(read_order(name), (NO_BLOCK,)) for name in "abc"]
    under_way.begin(StepPlan(1, restores=orders), NO_POOLS)
    assert gate.started.wait(60)
    under_way.begin(StepPlan(2, abandons=["a", "b", "x"]), NO_POOLS)
    given_up = under_way.outcomes()[1]
    assert [(one.order.path, one.problem, one.seconds > 0) for one in given_up] == [
        ("a", "late", True),
        ("b", "late", False),
    ]
    again = RestoreOrder(replace(read_order("a"), offset=1), (NO_BLOCK,))
    under_way.begin(StepPlan(3, restores=[again]), NO_POOLS)
    gate.opened.set()
    restored: list[ReadOutcome] = []
    while len(restored) < 2:
        under_way.begin(StepPlan(4), NO_POOLS)
        restored += under_way.outcomes()[1]
    assert [one.order for one in restored] == [orders[2].read, again.read]
    assert gate.begun == ["a", "c", "a"]


def test_contents_of_another_size_are_damaged() -> None:
    under_way = transfers.Transfers(
        DiskThread(read=lambda order: (ReadOutcome(order, None), memoryview(b"x")))
    )
    under_way.begin(StepPlan(1, restores=[RestoreOrder(read_order("a"), (NO_BLOCK,))]), NO_POOLS)
    restored: list[ReadOutcome] = []
    while not restored:
        under_way.begin(StepPlan(2), NO_POOLS)
        restored = under_way.outcomes()[1]
    assert restored[0].problem == "damaged"
