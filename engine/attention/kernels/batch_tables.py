"""A forward pass's tables on the device: made once for all layers of the same kind."""

from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

import mlx.core as mx

from ...step import SlotRange
from ..shared_prefixes import SharedPrefix
from .decode_tables import make_decode_tables
from .tables import MIN_PARTIAL_ROWS, LayerKind, Layout, PartialColumn, Tables
from .tiles import make_slice_tables


class KindLayout(NamedTuple):
    """The shapes of the tables for one kind of layers."""

    kind: LayerKind
    layout: Layout


BatchLayout = tuple[KindLayout, ...]
"""The shapes of all tables of a pass. All kinds have the same number of rows."""


class DeviceTables:
    """`Tables` on the device."""

    def __init__(self, layout: Layout, kind: LayerKind, flat: mx.array) -> None:
        """flat: all numbers, as `Tables.flat` has them: one transfer in place of several."""
        self.num_splits = layout.num_splits
        self.num_tiles = layout.num_tiles
        shapes = [
            (layout.num_rows, layout.num_blocks),
            (layout.num_splits, kind.split_columns),
            (layout.num_tiles, kind.tile_columns),
            (max(layout.num_queries, MIN_PARTIAL_ROWS), PartialColumn.TILES + layout.num_tile_partials),
        ]
        ends = list(accumulate((a * b for a, b in shapes), initial=0))
        self.block_table, self.splits, self.tiles, self.query_partials = (
            flat[start:end].reshape(shape) for (start, end), shape in zip(pairwise(ends), shapes, strict=True)
        )


class TableSource(Protocol):
    """Gives layers the tables of the forward pass."""

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return the tables for layers of one kind."""


class BatchTables:
    """The tables of one decode batch, made when a kind of layers first asks for its own."""

    def __init__(
        self,
        slot_ranges: list[tuple[SlotRange, ...]],
        prefixes: list[SharedPrefix],
        num_rows: int | None = None,
        window_ranges: list[tuple[SlotRange, ...]] | None = None,
    ) -> None:
        """See make_decode_tables.

        window_ranges: slots in the pools of layers with a window, where these keep each row's newest tokens
        only; None where they are the same slots.
        """
        self._slot_ranges, self._prefixes = slot_ranges, prefixes
        self._window_ranges = slot_ranges if window_ranges is None else window_ranges
        self._num_rows = num_rows
        self._host_tables: dict[LayerKind, Tables] = {}
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
        if layout.num_queries != tables.num_queries:
            tables = self._make(kind, layout.num_queries)
        return mx.array(tables.flat if layout == tables.layout else tables.enlarged(layout).flat)

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return a kind's tables."""
        if kind not in self._device_tables:
            layout = self.layout(kind)
            self._device_tables[kind] = DeviceTables(layout, kind, self.flat(kind, layout))
        return self._device_tables[kind]

    def _lay_out(self, kind: LayerKind) -> Tables:
        if kind not in self._host_tables:
            self._host_tables[kind] = self._make(kind, self._num_rows)
        return self._host_tables[kind]

    def _make(self, kind: LayerKind, num_rows: int | None) -> Tables:
        slot_ranges = self._slot_ranges if kind.window is None else self._window_ranges
        return make_decode_tables(slot_ranges, self._prefixes, kind, num_rows)


class SliceTables:
    """The tables of a prompt's slice, made when a kind of layers first asks for its own."""

    def __init__(self, slot_ranges: tuple[SlotRange, ...], length: int) -> None:
        """See make_slice_tables."""
        self._slot_ranges, self._length = slot_ranges, length
        self._device_tables: dict[LayerKind, DeviceTables] = {}

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return a kind's tables."""
        if kind not in self._device_tables:
            tables = make_slice_tables(self._slot_ranges, self._length, kind)
            self._device_tables[kind] = DeviceTables(tables.layout, kind, mx.array(tables.flat))
        return self._device_tables[kind]


class TracedTables:
    """Tables whose numbers are a graph's inputs; a TableSource while the graph is traced."""

    def __init__(self, batch_layout: BatchLayout, flats: list[mx.array]) -> None:
        """flats: the numbers of each kind's tables, as `Tables.flat` has them."""
        self._tables = {
            kind: DeviceTables(layout, kind, flat)
            for (kind, layout), flat in zip(batch_layout, flats, strict=True)
        }

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return a kind's tables. Raises KeyError for a kind that no layer of an earlier pass asked for."""
        return self._tables[kind]
