"""The decode batch's forward pass as compiled graphs, for devices that compute by themselves.

There, building a step's graph in Python can take longer than computing it: thousands of calls, and for each
kernel its whole source text. A graph that `mx.compile` keeps is queued in a fraction of that time. It fits
batches of one layout only (`kernels/tables.py`); layouts and batches are rounded up, so that they come again.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..cache.kv import ArrayPools
from .attention.kernels.batch_tables import BatchTables, DeviceTables
from .attention.kernels.paged_kernels import PagedKernels
from .attention.kernels.tables import LayerKind, Layout, round_up
from .attention.paged import AttentionSpec, KernelDecode
from .attention.shared_prefixes import shared_prefixes
from .step import SlotRange

logger = logging.getLogger(__name__)

MAX_LAYOUTS = 64
"""Layouts remembered; the least recently used one goes first."""

STEPS_BEFORE_OWN_GRAPH = 32
"""Steps of a layout that a larger graph serves before it gets its own: tracing takes as long as several."""

MAX_FAILURES = 3
"""Graphs that may fail before no more are tried."""

Layouts = tuple[tuple[LayerKind, Layout], ...]
Graph = Callable[..., tuple[mx.array, list[mx.array]]]


class TracedTables:
    """Tables whose numbers are a graph's inputs; stands for BatchTables while it is traced."""

    def __init__(self, layouts: Layouts, flats: list[mx.array]) -> None:
        self._made = {
            kind: DeviceTables(layout, flat) for (kind, layout), flat in zip(layouts, flats, strict=True)
        }

    def get(self, kind: LayerKind) -> DeviceTables:
        """As BatchTables. Raises KeyError for tables that an earlier pass did not need."""
        return self._made[kind]


@dataclass(slots=True)
class GraphEntry:
    """What is known of a layout."""

    num_steps: int = 0
    graph: Graph | None = None


class DecodeGraphs:
    """A model's decode passes through the kernels, compiled for layouts that come again."""

    def __init__(self, model: Any, layers: list[AttentionSpec], kernels: PagedKernels) -> None:
        self._model = model
        self._layers = layers
        self._kernels = kernels
        self._kinds: tuple[LayerKind, ...] = ()  # of tables that the layers have asked for
        self._known: OrderedDict[Layouts, GraphEntry] = OrderedDict()
        self._num_failures = 0

    def logits(
        self,
        tokens: mx.array,
        positions: list[int],
        slot_ranges: list[tuple[SlotRange, ...]],
        pools: ArrayPools,
    ) -> mx.array:
        """Feed each row's token and return what follows it, (rows, vocab); lazy. Writes the tokens' KV.

        tokens: (rows,). positions, runs: of each row, its newest token included.
        """
        num_rows = round_up(len(slot_ranges), 2)
        tables = BatchTables(slot_ranges, shared_prefixes(slot_ranges), num_rows)
        found = self._find(tuple((kind, tables.layout(kind)) for kind in self._kinds))
        if found is not None:
            layouts, graph = found
            inputs, offsets = _padded(tokens, positions, layouts[0][1].num_rows)
            flats = [tables.flat(kind, layout) for kind, layout in layouts]
            try:
                logits, pools.write_fences = graph(inputs, offsets, flats, pools.arrays(), pools.write_fences)
                return logits[: len(slot_ranges)]
            except Exception as error:  # of tracing, which has computed nothing yet
                logger.warning("a step of this model cannot be compiled, which costs speed: %s", error)
                self._num_failures += 1
                del self._known[layouts]
        logits = self._forward(*_padded(tokens, positions, num_rows), tables, pools)
        self._kinds = tables.kinds
        return logits[: len(slot_ranges)]

    def _find(self, wanted: Layouts) -> tuple[Layouts, Graph] | None:
        """A graph for a batch of the layout, made now if it is worth it; None to go without."""
        if not wanted or self._num_failures >= MAX_FAILURES:
            return None
        known = self._known.setdefault(wanted, GraphEntry())
        self._known.move_to_end(wanted)
        known.num_steps += 1
        larger = self._larger(wanted) if known.graph is None else None
        if known.graph is None and known.num_steps > (STEPS_BEFORE_OWN_GRAPH if larger else 1):
            known.graph = self._compile(wanted)
        if len(self._known) > MAX_LAYOUTS:
            self._known.popitem(last=False)
        return larger if known.graph is None else (wanted, known.graph)

    def _larger(self, wanted: Layouts) -> tuple[Layouts, Graph] | None:
        """The smallest graph that serves a batch of the layout with some padding."""
        fitting = [
            (layouts, known.graph)
            for layouts, known in self._known.items()
            if known.graph is not None and _holds(layouts, wanted)
        ]
        if not fitting:
            return None
        found = min(fitting, key=lambda entry: (entry[0][0][1].num_rows, entry[0][0][1].num_splits))
        self._known.move_to_end(found[0])
        return found

    def _compile(self, layouts: Layouts) -> Graph:
        def run(
            inputs: mx.array,
            offsets: mx.array,
            flats: list[mx.array],
            arrays: list[mx.array],
            write_fences: list[mx.array],
        ) -> tuple[mx.array, list[mx.array]]:
            pools = ArrayPools.of([spec.shape for spec in self._layers], arrays, write_fences)
            return self._forward(inputs, offsets, TracedTables(layouts, flats), pools), pools.write_fences

        return mx.compile(run)

    def _forward(
        self, inputs: mx.array, offsets: mx.array, tables: BatchTables | TracedTables, pools: ArrayPools
    ) -> mx.array:
        layers = [KernelDecode(spec, offsets, pools, self._kernels, tables) for spec in self._layers]
        logits: mx.array = self._model(inputs, cache=layers)
        return logits.squeeze(1)


def _padded(tokens: mx.array, positions: list[int], num_rows: int) -> tuple[mx.array, mx.array]:
    """A batch's (tokens, offsets) with rows added that nobody reads; tokens become (rows, 1)."""
    missing = num_rows - len(positions)
    inputs = mx.pad(tokens, (0, missing)) if missing else tokens
    return inputs[:, None], mx.array(positions + [0] * missing)


def _holds(layouts: Layouts, wanted: Layouts) -> bool:
    """Whether a batch of the one fits into the other with no more than twice its rows."""
    return len(layouts) == len(wanted) and all(
        kind == other_kind and mine.holds(other) and mine.num_rows <= 2 * other.num_rows
        for (kind, mine), (other_kind, other) in zip(layouts, wanted, strict=True)
    )
