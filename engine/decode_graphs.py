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

import mlx.core as mx

from ..cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools
from ..cache.states import ArrayStates, StateRows
from .attention.kernel_layers import KernelDecode
from .attention.kernels.batch_tables import BatchLayout, BatchTables, KindLayout, TableSource, TracedTables
from .attention.kernels.paged_kernels import PagedKernels
from .attention.kernels.tables import LayerKind, round_up
from .attention.paged_model import PagedModel
from .attention.shared_prefixes import shared_prefixes
from .recurrent.kernel_states import KernelStates
from .recurrent.slot_states import SlotStates
from .recurrent.state_mover import StateMover
from .step import DecodeRow

logger = logging.getLogger(__name__)

MAX_LAYOUTS = 64
"""Layouts remembered; the least recently used one is forgotten first."""

STEPS_BEFORE_OWN_GRAPH = 32
"""Steps of a layout that a larger graph serves before it gets its own: tracing takes several steps' time."""

MAX_FAILURES = 3
"""Graphs that may fail before graphs are given up."""

Graph = Callable[..., tuple[mx.array, list[mx.array], list[mx.array]]]
"""A compiled forward pass: returns logits, write fences, and states or their fences; see `_compile`."""

Given = StateRows | SlotStates | None
"""The states of a pass's rows, as PagedModel.run takes them."""


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
        self, tokens: mx.array, rows: list[DecodeRow], pools: ArrayPools, states: ArrayStates
    ) -> mx.array:
        """Feed each row's token, write its KV and its state; return the next token's logits, (rows, vocab).

        Lazy. tokens: (rows,). rows: all with a state from before their token, or all without one.
        """
        positions, slot_ranges = [row.position for row in rows], [row.slot_ranges for row in rows]
        before = [row.state.before for row in rows if row.state and row.state.before is not None]
        after = [row.state.after for row in rows if row.state]
        num_rows = round_up(len(rows), 2)
        window_ranges = [row.window_ranges for row in rows] if rows[0].window_ranges else None
        tables = BatchTables(slot_ranges, shared_prefixes(slot_ranges), num_rows, window_ranges)
        wanted = tuple(KindLayout(kind, tables.layout(kind)) for kind in self._kinds)
        found = self._find(wanted, states) if _are_usual(states, before, after) else None
        if found is not None:
            batch_layout, graph = found
            num_padded = batch_layout[0].layout.num_queries
            padded, given = _padded(tokens, positions, num_padded), _given(states, before, after, num_padded)
            flats = [tables.flat(kind, layout) for kind, layout in batch_layout]
            kept = given.arrays() if isinstance(given, SlotStates) else given
            try:
                results = graph(padded, flats, pools.arrays(), pools.write_fences, kept)
                logits, pools.write_fences, new = results
                _keep(states, after, given, new)
                return logits[: len(rows)]
            except Exception as error:  # from tracing: nothing is computed yet
                logger.warning("a step of this model cannot be compiled, which costs speed: %s", error)
                self._num_failures += 1
                del self._entries[batch_layout]
        given = _given(states, before, after, num_rows)
        logits, new = self._forward(*_padded(tokens, positions, num_rows), tables, pools, given)
        _keep(states, after, given, new)
        self._kinds = tables.kinds
        return logits[: len(rows)]

    def _find(self, wanted: BatchLayout, states: ArrayStates) -> tuple[BatchLayout, Graph] | None:
        """Return a graph for a batch of layout `wanted`, compiled now if that pays, or None."""
        if not wanted or self._num_failures >= MAX_FAILURES:
            return None
        entry = self._entries.setdefault(wanted, GraphEntry())
        self._entries.move_to_end(wanted)
        entry.num_steps += 1
        larger = self._larger(wanted) if entry.graph is None else None
        if entry.graph is None and entry.num_steps > (STEPS_BEFORE_OWN_GRAPH if larger else 1):
            entry.graph = self._compile(wanted, _mover(states))
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

    def _compile(self, batch_layout: BatchLayout, mover: StateMover | None) -> Graph:
        """mover: of states that stay in their slots; None where the graph gets their rows."""

        def run(
            padded: tuple[mx.array, mx.array],
            flats: list[mx.array],
            arrays: list[mx.array],
            write_fences: list[mx.array],
            kept: list[mx.array],
        ) -> tuple[mx.array, list[mx.array], list[mx.array]]:
            pools = ArrayPools.of([spec.shape for spec in self._paged.layers], arrays, write_fences)
            tables = TracedTables(batch_layout, flats)
            given = kept if mover is None else SlotStates.of(mover, len(padded[0]), kept)
            logits, new = self._forward(*padded, tables, pools, given)
            return logits, pools.write_fences, new

        return mx.compile(run)

    def _forward(
        self,
        inputs: mx.array,
        positions: mx.array,
        tables: TableSource,
        pools: ArrayPools,
        given: Given,
    ) -> tuple[mx.array, list[mx.array]]:
        """Run the model, see PagedModel.run. inputs: (rows, 1). positions: (rows or more,), see Deferral.on.

        Returns the logits, (rows, vocab), and the new states, or the fences of those that stay in slots.
        """
        offsets = positions[: len(inputs)]
        layers = [KernelDecode(spec, offsets, pools, self._kernels, tables) for spec in self._paged.layers]
        with self._paged.deferral.on(positions):
            logits, new = self._paged.run(inputs, layers, given)
        return logits.squeeze(1), given.fences if isinstance(given, SlotStates) else new


def _mover(states: ArrayStates) -> StateMover | None:
    """Return what moves states that stay in their slots; None where passes get rows of states."""
    return states.mover if isinstance(states, KernelStates) and states.are_in_slots else None


def _are_usual(states: ArrayStates, before: list[int], after: list[int]) -> bool:
    """Whether a graph can take the states: all rows have one, which lies where no row's next one goes to."""
    return len(before) == len(after) and (_mover(states) is None or not set(before) & set(after))


def _given(states: ArrayStates, before: list[int], after: list[int], num_rows: int) -> Given:
    """Return the states of rows, and rows of no meaning up to `num_rows`; None for first tokens."""
    if after and not before:
        return None
    if (
        after
        and isinstance(states, KernelStates)
        and states.are_in_slots
        and _are_usual(states, before, after)
    ):
        return states.in_slots(before, after, num_rows)
    return states.read(before, num_rows)


def _keep(states: ArrayStates, after: list[int], given: Given, new: list[mx.array]) -> None:
    """Keep what a pass returns for `given`."""
    if isinstance(given, SlotStates):
        assert isinstance(states, KernelStates)
        states.take(new, after)
    else:
        states.write(after, new)


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
