"""A decode batch's tables on the device: made once a step for all layers that are alike."""

from itertools import accumulate, pairwise
from typing import Protocol

import mlx.core as mx

from ...step import SlotRange
from ..shared_prefixes import SharedPrefix
from .tables import DecodeTables, LayerKind, Layout, make_tables


class DeviceTables:
    """A batch's tables on the device."""

    def __init__(self, layout: Layout, flat: mx.array) -> None:
        """flat: all numbers, as `DecodeTables.flat` has them; one transfer instead of several."""
        rows, self.num_splits = layout.num_rows, layout.num_splits
        shapes = [(rows, layout.num_columns), (self.num_splits, 4), (rows, 2 + layout.num_picks)]
        counts = [count for count, _ in layout.shared if count is not None]
        ends = list(accumulate([*(a * b for a, b in shapes), *counts], initial=0))
        table, items, ranges, *some = (flat[start:end] for start, end in pairwise(ends))
        self.table, self.items, self.ranges = (
            part.reshape(shape) for part, shape in zip((table, items, ranges), shapes, strict=True)
        )
        indices = iter(some)
        self.shared = [(None if count is None else next(indices), run) for count, run in layout.shared]


class TableSource(Protocol):
    """Where a decode batch's tables are found."""

    def get(self, kind: LayerKind) -> DeviceTables:
        """The tables of a kind of layers."""


class BatchTables:
    """The tables of one decode batch, made once a step for all layers that are alike."""

    def __init__(
        self, slot_ranges: list[tuple[SlotRange, ...]], reads: list[SharedPrefix], num_rows: int | None = None
    ) -> None:
        """See make_tables."""
        self.slot_ranges, self._reads = slot_ranges, reads
        self._num_rows = num_rows
        self._laid_out: dict[LayerKind, DecodeTables] = {}
        self._made: dict[LayerKind, DeviceTables] = {}

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """What `get` has been asked for, in that order."""
        return tuple(self._made)

    def layout(self, kind: LayerKind) -> Layout:
        """The shapes of a kind's tables."""
        return self._lay_out(kind).layout

    def flat(self, kind: LayerKind, layout: Layout) -> mx.array:
        """All numbers of a kind's tables, in a layout that holds theirs."""
        tables = self._lay_out(kind)
        if layout.num_rows != len(tables.table):
            tables = make_tables(self.slot_ranges, self._reads, *kind, layout.num_rows)
        return mx.array(tables.flat if layout == tables.layout else tables.enlarged(layout).flat)

    def get(self, kind: LayerKind) -> DeviceTables:
        """The tables of a kind."""
        if kind not in self._made:
            layout = self.layout(kind)
            self._made[kind] = DeviceTables(layout, self.flat(kind, layout))
        return self._made[kind]

    def _lay_out(self, kind: LayerKind) -> DecodeTables:
        if kind not in self._laid_out:
            self._laid_out[kind] = make_tables(self.slot_ranges, self._reads, *kind, self._num_rows)
        return self._laid_out[kind]
