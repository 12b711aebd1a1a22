"""The decode batch's forward pass as compiled graphs, for devices that compute by themselves.

On these, building a step's graph in Python can take longer than computing it: it makes thousands of calls,
and MLX copies each kernel's whole source text. A graph that `mx.compile` keeps is queued in a fraction of
that time. It fits batches of one layout only (`attention/kernels/tables.py`): the numbers of rows and the
sizes of the tables are rounded up, so that layouts come again.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools
from .attention.kernels.batch_tables import BatchTables, DeviceTables, TableSource
from .attention.kernels.paged_kernels import PagedKernels
from .attention.kernels.tables import LayerKind, Layout, round_up
from .attention.paged_layers import KernelDecode
from .attention.paged_model import PagedModel
from .attention.shared_prefixes import shared_prefixes
from .step import SlotRange

logger = logging.getLogger(__name__)

MAX_LAYOUTS = 64
"""Layouts remembered; the least recently used one is forgotten first."""

STEPS_BEFORE_OWN_GRAPH = 32
"""Steps of a layout that a larger graph serves before it gets its own: tracing takes several steps' time."""

MAX_FAILURES = 3
"""Graphs that may fail before graphs are given up."""

Graph = Callable[..., tuple[mx.array, list[mx.array]]]
"""A compiled forward pass: returns logits and the next write fences; see `DecodeGraphs._compile`."""


class KindLayout(NamedTuple):
    """The shapes of the tables for one kind of layers."""

    kind: LayerKind
    layout: Layout


BatchLayout = tuple[KindLayout, ...]
"""The shapes of all tables of a batch. All kinds have the same number of rows."""


class TracedTables:
    """Tables whose numbers are a graph's inputs; stands for BatchTables while the graph is traced."""

    def __init__(self, batch_layout: BatchLayout, flats: list[mx.array]) -> None:
        """flats: the numbers of each kind's tables, as `BatchTables.flat` returns them."""
        self._tables = {
            kind: DeviceTables(layout, kind, flat)
            for (kind, layout), flat in zip(batch_layout, flats, strict=True)
        }

    def get(self, kind: LayerKind) -> DeviceTables:
        """Return a kind's tables. Raises KeyError for a kind that no layer of an earlier pass asked for."""
        return self._tables[kind]


@dataclass(slots=True)
class GraphEntry:
    """How often a layout has come, and its own graph once it has one."""

    num_steps: int = 0
    graph: Graph | None = None


class DecodeGraphs:
    """A model's decode passes through the kernels, compiled for layouts that come again."""

    def __init__(self, paged: PagedModel, kernels: PagedKernels) -> None:
        self._paged = paged
        self._kernels = kernels
        self._kinds: tuple[LayerKind, ...] = ()  # kinds that layers asked for in the last uncompiled pass
        self._entries: OrderedDict[BatchLayout, GraphEntry] = OrderedDict()
        self._num_failures = 0

    def logits(
        self,
        tokens: mx.array,
        positions: list[int],
        slot_ranges: list[tuple[SlotRange, ...]],
        pools: ArrayPools,
    ) -> mx.array:
        """Feed each row's token and write its KV; return the next token's logits, (rows, vocab); lazy.

        tokens: (rows,). positions, slot_ranges: of each row, its newest token included.
        """
        num_rows = round_up(len(slot_ranges), 2)
        tables = BatchTables(slot_ranges, shared_prefixes(slot_ranges), num_rows)
        found = self._find(tuple(KindLayout(kind, tables.layout(kind)) for kind in self._kinds))
        if found is not None:
            batch_layout, graph = found
            padded = _padded(tokens, positions, batch_layout[0].layout.num_queries)
            flats = [tables.flat(kind, layout) for kind, layout in batch_layout]
            try:
                logits, pools.write_fences = graph(*padded, flats, pools.arrays(), pools.write_fences)
                return logits[: len(slot_ranges)]
            except Exception as error:  # from tracing: nothing is computed yet
                logger.warning("a step of this model cannot be compiled, which costs speed: %s", error)
                self._num_failures += 1
                del self._entries[batch_layout]
        logits = self._forward(*_padded(tokens, positions, num_rows), tables, pools)
        self._kinds = tables.kinds
        return logits[: len(slot_ranges)]

    def _find(self, wanted: BatchLayout) -> tuple[BatchLayout, Graph] | None:
        """Return a graph for a batch of layout `wanted`, compiled now if that pays, or None."""
        if not wanted or self._num_failures >= MAX_FAILURES:
            return None
        entry = self._entries.setdefault(wanted, GraphEntry())
        self._entries.move_to_end(wanted)
        entry.num_steps += 1
        larger = self._larger(wanted) if entry.graph is None else None
        if entry.graph is None and entry.num_steps > (STEPS_BEFORE_OWN_GRAPH if larger else 1):
            entry.graph = self._compile(wanted)
        if len(self._entries) > MAX_LAYOUTS:
            self._entries.popitem(last=False)
        return larger if entry.graph is None else (wanted, entry.graph)

    def _larger(self, wanted: BatchLayout) -> tuple[BatchLayout, Graph] | None:
        """Return the smallest graph that serves a batch of layout `wanted` with some padding."""
        graphs = {
            batch_layout: entry.graph
            for batch_layout, entry in self._entries.items()
            if entry.graph is not None and _holds(batch_layout, wanted)
        }
        if not graphs:
            return None
        smallest = min(graphs, key=lambda found: (found[0].layout.num_queries, found[0].layout.num_splits))
        self._entries.move_to_end(smallest)
        return smallest, graphs[smallest]

    def _compile(self, batch_layout: BatchLayout) -> Graph:
        def run(
            inputs: mx.array,
            positions: mx.array,
            flats: list[mx.array],
            arrays: list[mx.array],
            write_fences: list[mx.array],
        ) -> tuple[mx.array, list[mx.array]]:
            pools = ArrayPools.of([spec.shape for spec in self._paged.layers], arrays, write_fences)
            return self._forward(
                inputs, positions, TracedTables(batch_layout, flats), pools
            ), pools.write_fences

        return mx.compile(run)

    def _forward(
        self, inputs: mx.array, positions: mx.array, tables: TableSource, pools: ArrayPools
    ) -> mx.array:
        """Run the model. inputs: (rows, 1). positions: (rows or more,), see Deferral.on."""
        offsets = positions[: len(inputs)]
        layers = [KernelDecode(spec, offsets, pools, self._kernels, tables) for spec in self._paged.layers]
        with self._paged.deferral.on(positions):
            logits, _ = self._paged.run(inputs, layers)
        return logits.squeeze(1)


def _padded(tokens: mx.array, positions: list[int], num_rows: int) -> tuple[mx.array, mx.array]:
    """Return tokens, (num_rows, 1), and positions; results of padding rows are dropped.

    The positions are those of `num_rows` rows, or of more, see Deferral.on.
    """
    missing = num_rows - len(positions)
    inputs = mx.pad(tokens, (0, missing)) if missing else tokens
    return inputs[:, None], mx.array(positions + [0] * (max(num_rows, MIN_KERNEL_ELEMENTS) - len(positions)))


def _holds(larger: BatchLayout, wanted: BatchLayout) -> bool:
    """Whether a batch of layout `wanted` fits into `larger`, with no more than twice its rows."""
    return len(larger) == len(wanted) and all(
        a.kind == b.kind and a.layout.holds(b.layout) and a.layout.num_queries <= 2 * b.layout.num_queries
        for a, b in zip(larger, wanted, strict=True)
    )
