"""Compares paged attention with mlx-lm's own, on the user's model and device, before anything is served."""

import logging
import re
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

from ..cache.blocks import BLOCK_SIZE, BlockTable
from ..cache.kv import ArrayPools, LayerShape
from .attention.array_attention import AttentionParams, attend_arrays
from .attention.kernels.batch_tables import BatchTables
from .attention.kernels.paged_kernels import LayerPools, PagedKernels, find_kernels
from .attention.paged import AttentionSpec, probe
from .attention.shared_prefixes import shared_prefixes
from .runner import Runner
from .step import DecodeRow, PrefillChunk, SamplingParams, SlotRange

logger = logging.getLogger(__name__)

KEY_PROJECTION = re.compile(r"k_proj|qkv|query_key_value|c_attn|key")
"""What the module that makes keys is called in mlx-lm's models."""

TOLERANCE = {mx.float32: 1e-3, mx.float16: 0.03, mx.bfloat16: 0.1}
"""How far logits may lie apart by rounding alone, relative to their size."""

TF32_TOLERANCE = 1e-2
"""The same for float32 on a GPU, where MLX may multiply with 10 bits of mantissa (1.7e-3 was seen)."""

QUANTISED_TOLERANCE = {8: 8e-3, 4: 4e-2}
"""The least tolerance where KV is quantised: codes may round the other way (1.7e-3 was seen with 8 bits)."""

PROMPTS = [([5, 2, 3], 91), ([7], 5)]
"""Blocks, out of order, and tokens of the prompts tried; in the short one every token counts."""

TRIAL_WINDOW = 24
"""The window of layers that have one, in the trial: their own may be longer than what is quickly tried."""

KERNEL_TOLERANCE = {mx.float32: 2e-3, mx.float16: 5e-3, mx.bfloat16: 2e-2}
"""How far one layer's attention may lie apart; matmuls over shared slots round scores to the model's type."""

TRIAL_LENGTHS, TRIAL_STEPS = [70, 5, 33, 64, 2, 47], 32
"""Tokens of the rows that are decoded together for so many steps."""

MAX_DRIFT = 0.3
"""Share of logits that may lie further apart: in half precision a model chooses other experts (0.11 seen)."""

SHARED, OWN = 4096, [1, 31, 64, 65, 100, 700, 1500, 33]
"""Tokens that the rows of a trial of the kernels share, and that each has to itself."""


def usable_kernels(model: nn.Module, vocab_size: int, kv_bits: int = 16) -> PagedKernels | None:
    """The device's attention kernels, if they compute what plain MLX computes; else None, with a warning."""
    kernels = find_kernels(centres_keys=_has_key_bias(model))
    if kernels is None:
        return None
    try:
        distance = disagreement(model, vocab_size, on_host=False, kernels=kernels, kv_bits=kv_bits)
        distance = max(distance, kernel_disagreement(model, kernels, kv_bits))
        distance = max(distance, drift(model, vocab_size, kernels, kv_bits) / MAX_DRIFT)
    except Exception as error:  # whatever a compiler or driver raises
        logger.warning("attention kernels cannot be used here, plain MLX is used instead: %s", error)
        return None
    if not distance <= 1:  # not >: NaN must fail
        logger.warning("attention kernels compute wrongly here, plain MLX is used instead")
        return None
    return kernels


def kernel_disagreement(model: nn.Module, kernels: PagedKernels, kv_bits: int = 16) -> float:
    """Distance between kernels and plain MLX on random data in the model's shapes; up to 1 is agreement.

    Long and short rows that share a prefix, so that all that a step may need is compiled here already.
    """
    kinds = {replace(spec, layer=0) for spec in probe(model, kv_bits)}
    return max(_layer_disagreement(spec, kernels) for spec in kinds)


def _layer_disagreement(spec: AttentionSpec, kernels: PagedKernels) -> float:
    shape = spec.shape
    starts = list(accumulate((-(-own // BLOCK_SIZE) * BLOCK_SIZE for own in OWN), initial=SHARED + 64))
    slot_ranges: list[tuple[SlotRange, ...]] = [
        ((0, SHARED), (at, at + own)) for at, own in zip(starts, OWN, strict=False)
    ]

    def draw(seed: int, *dims: int) -> mx.array:
        return mx.random.normal(dims, key=mx.random.key(seed)).astype(shape.dtype)

    queries = draw(0, len(OWN), spec.num_heads, 1, shape.key_dim)
    heads, dims = shape.num_kv_heads, (shape.key_dim, shape.value_dim)
    new = draw(1, len(OWN), heads, 1, dims[0]), draw(2, len(OWN), heads, 1, dims[1])
    old = draw(3, heads, starts[-1], dims[0]), draw(4, heads, starts[-1], dims[1])
    params = AttentionParams(spec.scale, spec.window, draw(5, spec.num_heads) if spec.has_sinks else None)
    ours, plain = (ArrayPools([shape], starts[-1] // BLOCK_SIZE) for _ in range(2))
    for pools in (ours, plain):
        pools.write(0, np.arange(starts[-1], dtype=np.int32), *old)
    last = np.array([row[-1][1] - 1 for row in slot_ranges], np.int32)
    plain.write(0, last, *(fresh[:, :, 0].swapaxes(0, 1) for fresh in new))
    mx.eval(ours.arrays(), plain.arrays())  # before the kernels write to them
    expected = attend_arrays(queries.astype(mx.float32), plain.keys[0], plain.values[0], slot_ranges, params)
    batch = BatchTables(slot_ranges, shared_prefixes(slot_ranges))
    result, _ = kernels.decode(queries, new, LayerPools.of(ours, 0), batch, params)
    return _largest_distance(result[:, :, 0], expected[:, :, 0]) / KERNEL_TOLERANCE[shape.dtype]


def _has_key_bias(model: nn.Module) -> bool:
    """Whether keys are made with a bias, which all of them then have in common."""
    parameters: Any = tree_flatten(model.parameters())
    return any(path.endswith(".bias") and KEY_PROJECTION.search(path) for path, _ in parameters)


def disagreement(
    model: nn.Module,
    vocab_size: int,
    on_host: bool,
    kernels: PagedKernels | None = None,
    kv_bits: int = 16,
) -> float:
    """Distance between paged and plain logits relative to their size, and to what rounding allows.

    The prompts are prefilled in two slices each and decoded together, with windows shorter than the longer
    one. Where KV is quantised, it is so on mlx-lm's side as well. Up to 1 is agreement.
    Raises whatever the model raises when it cannot work on paged KV.
    """
    layers = [_narrowed(spec) for spec in probe(model, kv_bits)]
    runner = Runner(model, num_blocks=8, on_host=on_host, kernels=kernels, layers=layers)
    rows, expected = [], []
    for seq_id, (blocks, length) in enumerate(PROMPTS):
        table = BlockTable()
        table.extend(blocks)
        tokens = [(seq_id + 7919 * i) % vocab_size for i in range(length)]
        cut, last = length // 2, length - 1
        runner.prefill(PrefillChunk(seq_id, tokens[:cut], 0, table.slot_ranges(cut)))
        runner.prefill(PrefillChunk(seq_id, tokens[cut:last], cut, table.slot_ranges(last)))
        rows.append(DecodeRow(seq_id, tokens[last], last, table.slot_ranges(last + 1), SamplingParams()))
        expected.append(model(mx.array([tokens]), cache=reference_caches(model, layers))[0, -1])
    plain = mx.stack(expected)
    # Three times: the third time, where there are kernels, the pass is a compiled graph.
    largest = max(_largest_distance(runner.logits(rows), plain) for _ in range(3))
    return largest / _tolerance(plain.dtype, kv_bits)


def _tolerance(dtype: mx.Dtype, kv_bits: int) -> float:
    is_tf32 = dtype == mx.float32 and mx.default_device() == mx.Device(mx.gpu)
    return max(TF32_TOLERANCE if is_tf32 else TOLERANCE[dtype], QUANTISED_TOLERANCE.get(kv_bits, 0.0))


def drift(model: nn.Module, vocab_size: int, kernels: PagedKernels, kv_bits: int = 16) -> float:
    """Share of logits that kernels and plain MLX do not agree on while several rows are decoded for a while.

    Nothing is read before the end, as in serving: what one step writes in place the next must find.
    """
    plain, ours = (_decoded(model, vocab_size, None, kv_bits), _decoded(model, vocab_size, kernels, kv_bits))
    agrees = _distances(ours, plain) <= _tolerance(plain.dtype, kv_bits)  # NaN does not agree
    return float((~agrees).mean())


def _decoded(model: nn.Module, vocab_size: int, kernels: PagedKernels | None, kv_bits: int) -> mx.array:
    """Logits of each row and step, (steps, rows, vocab), on tokens that are given."""
    num_rows, size = len(TRIAL_LENGTHS), max(TRIAL_LENGTHS) + TRIAL_STEPS
    blocks = -(-size // BLOCK_SIZE)
    runner = Runner(model, num_rows * blocks, on_host=False, kernels=kernels, layers=probe(model, kv_bits))
    tables = [BlockTable() for _ in TRIAL_LENGTHS]
    tokens = [[(row + 7919 * i) % vocab_size for i in range(size)] for row in range(num_rows)]
    for row, (table, length) in enumerate(zip(tables, TRIAL_LENGTHS, strict=True)):
        table.extend([row + num_rows * i for i in range(blocks)])
        cuts = [0, length // 2, length - 1]
        for start, end in pairwise(cuts):
            if end > start:
                runner.prefill(PrefillChunk(row, tokens[row][start:end], start, table.slot_ranges(end)))
    steps = []
    for step in range(TRIAL_STEPS):
        places = [(row, length + step) for row, length in enumerate(TRIAL_LENGTHS)]
        steps.append(
            runner.logits(
                [
                    DecodeRow(
                        row, tokens[row][end - 1], end - 1, tables[row].slot_ranges(end), SamplingParams()
                    )
                    for row, end in places
                ]
            )
        )
        mx.async_eval(steps[-1])
    return mx.stack(steps)


def _narrowed(spec: AttentionSpec) -> AttentionSpec:
    return spec if spec.window is None else replace(spec, window=TRIAL_WINDOW)


class _NarrowCache(RotatingKVCache):
    """mlx-lm's cache with a window of its own choice."""

    def make_mask(self, N: int, window_size: int | None = None, return_array: bool = False) -> Any:
        return super().make_mask(N, self.max_size, return_array)


class _RoundTrip:
    """Another cache, but what goes in is quantised and restored on the way."""

    def __init__(self, cache: Any, shape: LayerShape) -> None:
        self._cache, self._shape = cache, shape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        return self._cache.update_and_fetch(self._lossy(keys), self._lossy(values))

    def _lossy(self, elements: mx.array) -> mx.array:
        packing = self._shape.packing(elements.shape[-1])
        assert packing is not None
        restored: mx.array = packing.unpack(mx, packing.pack(mx, elements), elements.dtype)
        return restored


def reference_caches(model: nn.Module, layers: list[AttentionSpec]) -> list[Any]:
    """mlx-lm's own, with the trial's windows and the pools' precision."""
    narrow = cast(Any, _NarrowCache)
    caches = [
        cache if spec.window is None else narrow(spec.window)
        for cache, spec in zip(make_prompt_cache(model), layers, strict=True)
    ]
    if layers[0].shape.kv_bits == 16:
        return caches
    return [_RoundTrip(cache, spec.shape) for cache, spec in zip(caches, layers, strict=True)]


def _largest_distance(a: mx.array, b: mx.array) -> float:
    return float(_distances(a, b).max())


def _distances(a: mx.array, b: mx.array) -> Any:
    x, y = np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32))
    return np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)
