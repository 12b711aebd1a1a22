"""The decode batch's forward pass as compiled graphs, for devices that compute by themselves.

There, building a step's graph in Python can take longer than computing it: thousands of calls, and for each
kernel its whole source text. A graph that `mx.compile` keeps is queued in a fraction of that time. It fits
batches of one layout only (`kernels/tables.py`); layouts and batches are rounded up, so that they come again.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..cache.kv import ArrayPools
from .kernels.device import DeviceTables, PagedKernels, PassTables
from .kernels.tables import Kind, Layout, round_up
from .paged import KernelDecode, LayerFacts
from .segments import segments
from .step import Run

logger = logging.getLogger(__name__)

MAX_GRAPHS = 32
"""Layouts remembered; the least recently used one goes first."""

Layouts = tuple[tuple[Kind, Layout], ...]
Graph = Callable[..., tuple[mx.array, list[mx.array]]]


class GraphTables:
    """Tables whose numbers are a graph's inputs; stands for PassTables while it is traced."""

    def __init__(self, layouts: Layouts, flats: list[mx.array]) -> None:
        self._made = {
            kind: DeviceTables(layout, flat) for (kind, layout), flat in zip(layouts, flats, strict=True)
        }

    def get(self, kind: Kind) -> DeviceTables:
        """As PassTables. Raises KeyError for tables that an earlier pass did not need."""
        return self._made[kind]


class DecodeGraphs:
    """A model's decode passes through the kernels, compiled from the second time on that a layout occurs."""

    def __init__(self, model: Any, layers: list[LayerFacts], kernels: PagedKernels) -> None:
        self._model = model
        self._layers = layers
        self._kernels = kernels
        self._kinds: tuple[Kind, ...] = ()  # of tables that the layers have asked for
        self._graphs: OrderedDict[Layouts, Graph | None] = OrderedDict()
        self._can_compile = True

    def logits(
        self, tokens: mx.array, positions: list[int], runs: list[tuple[Run, ...]], pools: ArrayPools
    ) -> mx.array:
        """Feed each row's token and return what follows it, (rows, vocab); lazy. Writes the tokens' KV.

        tokens: (rows,). positions, runs: of each row, its newest token included.
        """
        num_rows = round_up(len(runs), 2)
        padding = num_rows - len(runs)
        offsets = mx.array(positions + [0] * padding)
        inputs = mx.pad(tokens, (0, padding))[:, None] if padding else tokens[:, None]
        tables = PassTables(runs, segments(runs), num_rows)
        laid_out = {kind: tables.lay_out(kind) for kind in self._kinds}
        layouts = tuple((kind, made.layout) for kind, made in laid_out.items())
        graph = self._find(layouts) if layouts else None
        if graph is not None:
            flats = [mx.array(made.flat) for made in laid_out.values()]
            try:
                logits, pools.done = graph(inputs, offsets, flats, pools.arrays(), pools.done)
                return logits[: len(runs)]
            except Exception as error:  # of tracing, which has computed nothing yet
                logger.warning("this model's steps cannot be compiled, which costs speed: %s", error)
                self._can_compile = False
        logits = self._forward(inputs, offsets, tables, pools)
        self._kinds = tables.kinds
        return logits[: len(runs)]

    def _find(self, layouts: Layouts) -> Graph | None:
        """The layout's graph; None the first time that it occurs."""
        if not self._can_compile:
            return None
        is_known = layouts in self._graphs
        graph = self._graphs.pop(layouts, None) or (self._compile(layouts) if is_known else None)
        self._graphs[layouts] = graph
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _compile(self, layouts: Layouts) -> Graph:
        def run(
            inputs: mx.array,
            offsets: mx.array,
            flats: list[mx.array],
            arrays: list[mx.array],
            done: list[mx.array],
        ) -> tuple[mx.array, list[mx.array]]:
            pools = ArrayPools.of(arrays, done)
            return self._forward(inputs, offsets, GraphTables(layouts, flats), pools), pools.done

        return mx.compile(run)

    def _forward(
        self, inputs: mx.array, offsets: mx.array, tables: PassTables | GraphTables, pools: ArrayPools
    ) -> mx.array:
        layers = [KernelDecode(facts, offsets, pools, self._kernels, tables) for facts in self._layers]
        logits: mx.array = self._model(inputs, cache=layers)
        return logits[:, -1]
