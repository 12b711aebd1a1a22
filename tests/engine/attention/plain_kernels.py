"""Kernels and a runner that do in MLX what a GPU's do, so that all around them is tested on a CPU."""

import mlx.core as mx

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools, Pool
from pensieve.engine.attention.array_attention import AttentionParams
from pensieve.engine.attention.kernels.batch_tables import TableSource
from pensieve.engine.attention.kernels.layer_pools import LayerPools
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.kernels.tables import LayerKind, PartialColumn, SplitColumn
from pensieve.engine.attention.rotation import THREE, Number, Rotation
from pensieve.engine.forward_contexts import decode_context
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SlotRange

Pair = tuple[mx.array, mx.array]


def stored(pool: Pool, fresh: mx.array) -> mx.array:
    """What would be read after `fresh` had been stored."""
    row = Pool(
        mx.zeros((*fresh.shape[:-1], pool.rows.shape[-1]), pool.rows.dtype),
        pool.shape[-1],
        pool.packing,
        pool.dtype,
    )
    row[:] = fresh
    read: mx.array = row[:]
    return read


def rotated_by_mlx(rotation: Rotation, place: int, heads: mx.array, positions: mx.array) -> mx.array:
    """What the model would make of queries (place 0) or keys (place 1) by itself."""
    log2_base, scale, *eps = (float(rotation.numbers[number]) for number in Number)
    if rotation.weights is not None:
        heads = mx.fast.rms_norm(heads, rotation.weights[place], eps[place])
    base = 2.0**log2_base if rotation.periods is None else None
    return mx.fast.rope(
        heads,
        rotation.num_rotated,
        traditional=rotation.is_traditional,
        base=base,
        scale=scale,
        offset=positions,
        freqs=rotation.periods,
    )


class PlainKernels(PagedKernels):
    """Does in MLX what the kernels do, from the same tables, but for their writes in place.

    A graph that is compiled cannot write to its inputs: what is to be written goes out as the write fence.
    """

    def __init__(self) -> None:
        super().__init__("metal")
        self.moves_states = False

    def decode(
        self,
        queries: mx.array,
        new: Pair,
        pools: LayerPools,
        batch: TableSource,
        params: AttentionParams,
    ) -> Pair:
        tables = batch.get(LayerKind(1, 1, 0, params.window))
        first_splits = tables.query_partials[: len(queries), PartialColumn.FIRST_SPLIT]
        newest = tables.splits[first_splits, SplitColumn.NEWEST][:, None]
        slots = (tables.block_table[:, :, None] * BLOCK_SIZE + mx.arange(BLOCK_SIZE)).reshape(len(newest), -1)
        index = mx.arange(slots.shape[1])[None]
        is_newest, is_seen = index == newest, (index <= newest) & (index > newest - (params.window or 10**6))
        keys, values = (
            mx.where(is_newest[:, None, :, None], stored(pool, fresh), pool[:, slots].swapaxes(0, 1))
            for pool, fresh in zip(pools[:2], new, strict=True)
        )
        out = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=params.scale, mask=is_seen[:, None, None], sinks=params.sinks
        )
        return out, mx.stack(list(new))

    def rotate(self, rotation: Rotation, three: THREE, positions: mx.array) -> THREE:
        queries, keys, values = three
        of_rows = positions[: len(queries)]
        rotated = [rotated_by_mlx(rotation, i, heads, of_rows) for i, heads in enumerate((queries, keys))]
        return rotated[0], rotated[1], values

    def append(self, new: Pair, pools: LayerPools, slots: mx.array) -> mx.array:
        for pool, fresh in zip(pools[:2], new, strict=True):
            pool[:, slots[: fresh.shape[2]]] = fresh[0]
        return pools.write_fence

    def gather(self, pools: LayerPools, slot_ranges: tuple[SlotRange, ...]) -> Pair:
        keys, values = (
            mx.concatenate([pool[:, first:end] for first, end in slot_ranges], axis=1) for pool in pools[:2]
        )
        return keys, values


class PlainRunner(Runner):
    """Writes what PlainKernels hand out."""

    def _pass_logits(self, rows: list[DecodeRow]) -> mx.array:
        logits = super()._pass_logits(rows)
        self._write(rows)
        return logits

    def mixed_logits(self, rows: list[DecodeRow], chunks: list[PrefillChunk]) -> mx.array | None:
        logits = super().mixed_logits(rows, chunks)
        self._write(rows)
        return logits

    def _write(self, rows: list[DecodeRow]) -> None:
        pools = self.caches.pools
        assert isinstance(pools, ArrayPools)
        if self.caches.kernels is None or not rows:
            return
        context = decode_context(rows)
        for layer, written in enumerate(pools.write_fences):
            if written.ndim == 1:  # of a layer that kernels do not serve
                continue
            keys, values = written[:, : len(rows), :, 0].swapaxes(1, 2)
            pools.write(layer, context.of(self._paged.layers[layer]).slots, keys, values)
            pools.write_fences[layer] = mx.zeros((MIN_KERNEL_ELEMENTS,))
