"""A decode batch's tables on the device: made once a step for all layers of the same kind."""

from itertools import accumulate, pairwise
from typing import Protocol

import mlx.core as mx

from ...step import SlotRange
from ..shared_prefixes import SharedPrefix
from .tables import (
    MIN_PARTIAL_ROWS,
    DecodeTables,
    LayerKind,
    Layout,
    PartialColumn,
    SplitColumn,
    make_tables,
)


class DeviceTables:
    """`DecodeTables` on the device: a batch's tables for one kind of layers.

    shared: for each shared tile the indices of its rows, None for all rows, and its slot range.
    """

    def __init__(self, layout: Layout, flat: mx.array) -> None:
        """flat: all numbers, as `DecodeTables.flat` has them: one transfer in place of several."""
        self.num_splits = layout.num_splits
        shapes = [
            (layout.num_rows, layout.num_blocks),
            (layout.num_splits, len(SplitColumn)),
            (max(layout.num_rows, MIN_PARTIAL_ROWS), PartialColumn.SHARED + layout.num_shared),
        ]
        counts = [tile.num_rows for tile in layout.shared if tile.num_rows is not None]
        ends = list(accumulate([*(a * b for a, b in shapes), *counts], initial=0))
        parts = [flat[start:end] for start, end in pairwise(ends)]
        self.block_table, self.splits, self.row_partials = (
            part.reshape(shape) for part, shape in zip(parts[:3], shapes, strict=True)
        )
        rows = iter(parts[3:])
        self.shared: list[tuple[mx.array | None, SlotRange]] = [
            (None if tile.num_rows is None else next(rows), tile.slot_range) for tile in layout.shared
        ]


class TableSource(Protocol):
    """Gives layers the tables of the decode batch."""

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return the tables for layers of one kind."""


class BatchTables:
    """The tables of one decode batch, made when a kind of layers first asks for its own."""

    def __init__(
        self,
        slot_ranges: list[tuple[SlotRange, ...]],
        prefixes: list[SharedPrefix],
        num_rows: int | None = None,
    ) -> None:
        """See make_tables."""
        self._slot_ranges, self._prefixes = slot_ranges, prefixes
        self._num_rows = num_rows
        self._host_tables: dict[LayerKind, DecodeTables] = {}
        self._device_tables: dict[LayerKind, DeviceTables] = {}

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds that `get` has been asked for, in that order."""
        return tuple(self._device_tables)

    def layout(self, kind: LayerKind) -> Layout:
        """Return the shapes of a kind's tables."""
        return self._lay_out(kind).layout

    def flat(self, kind: LayerKind, layout: Layout) -> mx.array:
        """Return all numbers of a kind's tables, padded to `layout`, which must hold the tables' own."""
        tables = self._lay_out(kind)
        if layout.num_rows != len(tables.block_table):
            tables = make_tables(self._slot_ranges, self._prefixes, kind, layout.num_rows)
        return mx.array(tables.flat if layout == tables.layout else tables.enlarged(layout).flat)

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return a kind's tables."""
        if kind not in self._device_tables:
            layout = self.layout(kind)
            self._device_tables[kind] = DeviceTables(layout, self.flat(kind, layout))
        return self._device_tables[kind]

    def _lay_out(self, kind: LayerKind) -> DecodeTables:
        if kind not in self._host_tables:
            self._host_tables[kind] = make_tables(self._slot_ranges, self._prefixes, kind, self._num_rows)
        return self._host_tables[kind]
