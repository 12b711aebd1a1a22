"""Passes over prompts' slices as compiled graphs, where the kernels attend to slices in all layers.

Building the pass over a short slice in Python takes longer than computing it, as with decode passes. Slices
are padded to one of few sizes, so that graphs come again. Padding writes no KV and changes no state.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

import mlx.core as mx

from ..cache.kv import ArrayPools
from ..cache.states import ArrayStates
from .attention.kernel_layers import KernelPrefill, SliceSlots, written_slots
from .attention.kernels.batch_tables import BatchLayout, KindLayout, TracedTables
from .attention.kernels.paged_kernels import PagedKernels
from .attention.kernels.tables import Tables
from .attention.kernels.tiles import make_slice_tables
from .attention.paged_model import PagedModel
from .decode_graphs import MAX_FAILURES, MAX_LAYOUTS
from .forward_contexts import slice_context
from .recurrent.kernel_states import KernelStates
from .recurrent.slot_states import SlotStates
from .recurrent.state_mover import StateMover
from .step import PrefillChunk

logger = logging.getLogger(__name__)

SIZES = (64, 128, 256, 512, 768, 1024)
"""Tokens that slices are padded to. Few: a graph is traced in three to five times the time that it saves.

A pass over more tokens takes the device longer than Python; it is compiled if such a size comes again.
"""

Graph = Callable[..., tuple[list[mx.array], list[mx.array]]]
"""A compiled pass: returns the write fences of KV and of states, see `_compile`."""


class SliceGraphs:
    """A model's passes over prompts' slices, compiled for layouts that come again."""

    def __init__(self, paged: PagedModel, kernels: PagedKernels) -> None:
        """kernels: such that serve all layers."""
        self._paged, self._kernels = paged, kernels
        found = [kernels.slice_kind(spec.shape, spec.num_heads, spec.window) for spec in paged.layers]
        self._kinds = list(dict.fromkeys(kind for kind in found if kind is not None))
        # mlx-lm's own recurrent layers would take padding for tokens.
        has_slot_layers = paged.functions.num_slot_layers == len(paged.states)
        has_graphs = bool(found) and all(found) and has_slot_layers
        self._num_failures = 0 if has_graphs else MAX_FAILURES
        # Layouts that have come, each with its graph from the second time on.
        self._graphs: OrderedDict[BatchLayout, Graph | None] = OrderedDict()

    @property
    def are_possible(self) -> bool:
        """Whether slices of this model can be graphs."""
        return self._num_failures < MAX_FAILURES

    def prefill(self, chunk: PrefillChunk, pools: ArrayPools, states: ArrayStates) -> bool:
        """Write the KV of a slice, and the state after it, if there is a graph for it; lazy.

        Returns whether there is one. If not, the next slice of this layout finds one.
        """
        if not self.are_possible or not _has_usual_state(chunk, states):
            return False
        size = padded_size(len(chunk.tokens))
        windows = chunk.window_ranges or chunk.slot_ranges
        found = [
            make_slice_tables(windows if kind.window else chunk.slot_ranges, len(chunk.tokens), kind, size)
            for kind in self._kinds
        ]
        layout = tuple(map(KindLayout, self._kinds, (tables.layout for tables in found)))
        graph = self._find(layout, states)
        if graph is None:
            return False
        try:
            self._run(graph, chunk, found, pools, states)
        except Exception as error:  # from tracing: nothing is computed yet
            logger.warning("a prompt's slice cannot be compiled for this model, which costs speed: %s", error)
            self._num_failures += 1
            return False
        return True

    def _find(self, layout: BatchLayout, states: ArrayStates) -> Graph | None:
        """Return the graph of a layout, None if it comes for the first time."""
        if self._graphs.get(layout, True) is None:
            self._graphs[layout] = self._compile(layout, getattr(states, "mover", None))
        self._graphs.setdefault(layout, None)
        self._graphs.move_to_end(layout)
        if len(self._graphs) > MAX_LAYOUTS:
            self._graphs.popitem(last=False)
        return self._graphs[layout]

    def _run(
        self, graph: Graph, chunk: PrefillChunk, found: list[Tables], pools: ArrayPools, states: ArrayStates
    ) -> None:
        """Queue a graph. found: the slice's tables, of each kind of layers."""
        length, size, context = len(chunk.tokens), found[0].num_queries, slice_context(chunk)
        given: SlotStates | None = None
        if chunk.state is not None and chunk.state.before is not None:
            assert isinstance(states, KernelStates)
            given = states.in_slots([chunk.state.before], [chunk.state.after], 1)
        inputs = [
            mx.array([chunk.tokens + [0] * (size - length)]),
            context.offsets,
            mx.array([length], mx.int32),
            written_slots(context.slots, size),
        ]
        if context.windowed is not None:
            inputs.append(written_slots(context.windowed.slots, size))
        flats, kept = [mx.array(tables.flat) for tables in found], given.arrays() if given else []
        pools.write_fences, fences = graph(inputs, flats, pools.arrays(), pools.write_fences, kept)
        if isinstance(states, KernelStates) and chunk.state is not None:
            states.take(fences, [chunk.state.after])

    def _compile(self, layout: BatchLayout, mover: StateMover | None) -> Graph:
        """mover: of recurrent states, which stay in their slots; None for a model without any."""

        def run(
            inputs: list[mx.array],
            flats: list[mx.array],
            arrays: list[mx.array],
            write_fences: list[mx.array],
            kept: list[mx.array],
        ) -> tuple[list[mx.array], list[mx.array]]:
            tokens, offsets, lengths, written, *written_windows = inputs
            pools = ArrayPools.of([spec.shape for spec in self._paged.layers], arrays, write_fences)
            tables, kernels = TracedTables(layout, flats), self._kernels
            windowed = [SliceSlots(each, tables) for each in written_windows]
            slots = SliceSlots(written, tables, windowed=windowed[0] if windowed else None)
            layers = [KernelPrefill(spec, offsets, slots, pools, kernels) for spec in self._paged.layers]
            given = SlotStates.of(mover, 1, kept, lengths) if mover is not None and kept else None
            self._paged.run(tokens, layers, given)
            return pools.write_fences, given.fences if given else []

        return mx.compile(run)


def padded_size(length: int) -> int:
    """Return what a slice of `length` tokens is padded to."""
    return next((size for size in SIZES if size >= length), length)


def _has_usual_state(chunk: PrefillChunk, states: ArrayStates) -> bool:
    """Whether a graph can take the slice's state: none, or one in a slot other than the next one's."""
    if chunk.state is None:
        return True
    are_in_slots = isinstance(states, KernelStates) and states.are_in_slots
    return are_in_slots and chunk.state.before not in (None, chunk.state.after)
