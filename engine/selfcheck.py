"""Compares paged attention with mlx-lm's own, on the user's model and device, before the model is served."""

import logging
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, pairwise, product
from typing import Any

import mlx.core as mx
import numpy as np

from ..cache.blocks import BLOCK_SIZE
from ..cache.kv import ArrayPools
from ..cache.packing import UNQUANTISED
from .attention.array_attention import AttentionParams, attend_arrays
from .attention.kernels.batch_tables import BatchTables, SliceTables
from .attention.kernels.layer_pools import LayerPools
from .attention.kernels.paged_kernels import PagedKernels, find_kernels
from .attention.paged_layers import AttentionSpec, served_layers
from .attention.paged_model import PagedModel
from .attention.shared_prefixes import shared_prefixes
from .mended_functions import mended_functions
from .paged_caches import Capacity
from .recurrent.kernel_states import are_moved, states_agree
from .reference_caches import reference_caches
from .runner import Runner
from .step import SlotRange
from .trial_sequence import TrialSequence, state_slots

logger = logging.getLogger(__name__)

TOLERANCE = {mx.float32: 1e-3, mx.float16: 0.03, mx.bfloat16: 0.1}
"""How far logits may lie apart by rounding alone, relative to their size."""

TF32_TOLERANCE = 1e-2
"""The tolerance of float32 on a GPU, where MLX may multiply with 10 bits of mantissa (1.7e-3 was seen)."""

QUANTISED_TOLERANCE = {8: 8e-3, 4: 4e-2}
"""The least tolerance where KV is quantised: codes may round the other way (1.7e-3 was seen with 8 bits)."""

PROMPTS = [([5, 2, 3], 91), ([7], 5)]
"""Blocks, out of order, and length of each prompt tried; in the short prompt every token counts."""

TRIAL_WINDOW = 24
"""The window, in the check, of each layer that has one: its own may be longer than the prompts tried."""

KERNEL_TOLERANCE = {mx.float32: 2e-3, mx.float16: 5e-3, mx.bfloat16: 2e-2}
"""How far one layer's attention may lie apart: its weights are rounded to the model's type."""

TRIAL_LENGTHS, TRIAL_STEPS = [70, 5, 33, 64, 2, 47], 32
"""Tokens of the rows that are decoded together, and the number of steps."""

MAX_MISMATCH = 0.3
"""Share of rows whose logits may lie further apart: rounding may choose other experts (0.11 was seen)."""

SHARED, OWN = 4096, [1, 31, 64, 65, 100, 700, 1500, 33]
"""Tokens that the rows of a trial of the kernels share, and that each row has to itself."""

SLICE = 300
"""Tokens of the slice in that trial: the last ones of the longest row."""


def usable_kernels(paged: PagedModel) -> PagedKernels | None:
    """Return the device's attention kernels if they agree with mlx-lm's attention and with plain MLX.

    Layers that they are not made for are left to plain MLX. Where they fail or disagree, those without tiles
    are tried, which need no matrix units, then both without the kinds of layers that fail by themselves. Each
    failure is a warning. Returns None where the device has no kernels, or none that work.
    """
    for may_leave_out, has_tiles in product((False, True), (True, False)):
        kernels = find_kernels(has_tiles=has_tiles) if paged.layers else None
        if kernels is None:
            return None
        kernels.moves_states = _move_states(paged, kernels)
        if (not may_leave_out or _leave_out(paged, kernels)) and _work(paged, kernels):
            return kernels
    return None


def _move_states(paged: PagedModel, kernels: PagedKernels) -> bool:
    """Return whether the kernels move recurrent states as MLX does; warn if not."""
    with suppress(Exception):  # all that a compiler or driver raises
        if not are_moved(paged.state_arrays) or states_agree(paged.state_arrays, kernels.launcher):
            return True
    logger.warning("%s do not move recurrent states here; MLX does, and copies them", kernels.name)
    return False


def _leave_out(paged: PagedModel, kernels: PagedKernels) -> bool:
    """Let `kernels` leave out the kinds of layers that fail by themselves; return whether any does."""
    failing = [spec for spec in kinds(paged, kernels) if not _is_right(spec, kernels)]
    for spec in failing:
        kernels.leave_out(spec.shape, spec.num_heads)
    return bool(failing)


def _is_right(spec: AttentionSpec, kernels: PagedKernels) -> bool:
    """Return whether the kernels agree with plain MLX in a layer by itself."""
    try:
        return _layer_error(spec, kernels) <= 1
    except Exception:  # all that a compiler or driver raises; `_work` has warned of it
        return False


def kinds(paged: PagedModel, kernels: PagedKernels) -> set[AttentionSpec]:
    """Return the layers that `kernels` serve, without those that differ from others in their number only."""
    pairs = zip(paged.layers, served_layers(paged.layers, kernels), strict=True)
    return {replace(spec, layer=0) for spec, is_served in pairs if is_served}


def _work(paged: PagedModel, kernels: PagedKernels) -> bool:
    """Return whether kernels serve any layer and compute what mlx-lm and plain MLX compute; warn if not."""
    are_served = served_layers(paged.layers, kernels)
    if not any(are_served):
        logger.warning("%s are not made for this model's layers", kernels.name)
        return False
    if not all(are_served):
        logger.warning("%s leave %d layers to plain MLX", kernels.name, are_served.count(False))
    try:
        errors = [logits_error(paged, on_host=False, kernels=kernels), attention_error(paged, kernels)]
        error = _largest([*errors, logits_mismatch(paged, kernels) / MAX_MISMATCH])
    except Exception as exception:  # all that a compiler or driver raises
        logger.warning("%s cannot be used for this model here: %s", kernels.name, exception)
        return False
    if not error <= 1:  # not >: NaN must fail
        logger.warning("%s compute wrongly here and are not used for this model", kernels.name)
        return False
    return True


def attention_error(paged: PagedModel, kernels: PagedKernels) -> float:
    """Return the distance between kernels and plain MLX on random data in the model's shapes.

    A distance up to 1 is rounding. Long and short rows share a prefix, so that every kernel that a decode
    step may need is compiled here already.
    """
    return _largest([_layer_error(spec, kernels) for spec in kinds(paged, kernels)])


def _layer_error(spec: AttentionSpec, kernels: PagedKernels) -> float:
    """Return the distance between kernels and plain MLX in one layer, relative to the tolerance."""
    errors = [largest_distance(found, expected) for found, expected in attention_trial(spec, kernels)]
    return _largest(errors) / KERNEL_TOLERANCE[spec.shape.dtype]


def attention_trial(spec: AttentionSpec, kernels: PagedKernels) -> list[tuple[mx.array, mx.array]]:
    """Decode one batch, and prefill one slice where kernels do, of random data.

    Returns what the kernels and what plain MLX computed for each, lazy.
    """
    starts = list(accumulate((-(-own // BLOCK_SIZE) * BLOCK_SIZE for own in OWN), initial=SHARED + 64))
    slot_ranges: list[tuple[SlotRange, ...]] = [
        ((0, SHARED), (at, at + own)) for at, own in zip(starts, OWN, strict=False)
    ]
    heads, dims = spec.shape.num_kv_heads, (spec.shape.key_dim, spec.shape.value_dim)
    new = [_draw(spec, 1 + i, len(OWN), heads, 1, dim) for i, dim in enumerate(dims)]
    old = [_draw(spec, 3 + i, heads, starts[-1], dim) for i, dim in enumerate(dims)]
    sinks = _draw(spec, 5, spec.num_heads) if spec.has_sinks else None
    params = AttentionParams(spec.scale, spec.window, sinks)
    pools, plain = (ArrayPools([spec.shape], starts[-1] // BLOCK_SIZE) for _ in range(2))
    for each in (pools, plain):
        each.write(0, np.arange(starts[-1], dtype=np.int32), *old)
    last = np.array([row[-1][1] - 1 for row in slot_ranges], np.int32)
    plain.write(0, last, *(fresh[:, :, 0].swapaxes(0, 1) for fresh in new))
    mx.eval(pools.arrays(), plain.arrays())  # before the kernels write to them
    queries = _draw(spec, 0, len(OWN), spec.num_heads, 1, dims[0])
    batch = BatchTables(slot_ranges, shared_prefixes(slot_ranges))
    result, fence = kernels.decode(queries, (new[0], new[1]), LayerPools.of(pools, 0), batch, params)
    expected = attend_arrays(queries.astype(mx.float32), plain.keys[0], plain.values[0], slot_ranges, params)
    pairs = [(result[:, :, 0], expected[:, :, 0])]
    longest = max(slot_ranges, key=lambda row: row[-1][1] - row[-1][0])
    slice_queries = _draw(spec, 6, 1, spec.num_heads, SLICE, dims[0])
    layer_pools = LayerPools.of(pools, 0)._replace(write_fence=fence)
    if kernels.attends_slices(slice_queries, layer_pools, params):
        tables = SliceTables(longest, SLICE)
        result, _ = kernels.attend_slice(slice_queries, layer_pools, tables, params)
        wide = slice_queries.astype(mx.float32)
        expected = attend_arrays(wide, plain.keys[0], plain.values[0], [longest], params)
        pairs.append((result, expected))
    return pairs


def _draw(spec: AttentionSpec, seed: int, *dims: int) -> mx.array:
    """Return random numbers of the model's type."""
    return mx.random.normal(dims, key=mx.random.key(seed)).astype(spec.shape.dtype)


def logits_error(paged: PagedModel, on_host: bool, kernels: PagedKernels | None = None) -> float:
    """Return the distance of paged logits from mlx-lm's own, relative to their size and to the tolerance.

    The prompts are prefilled in four slices each, of which the last may be compiled graphs. The first two
    leave a state in their middle, where the model can, from which the first is computed again. Then their
    last two tokens are decoded together, so that the second one finds what the first has left. Windows are
    shorter than the longer prompt. Where KV is quantised, it is quantised on mlx-lm's side as well. A
    distance up to 1 is rounding.
    Raises what the model raises when it cannot work on paged KV.
    """
    paged = replace(paged, layers=[with_trial_window(spec) for spec in paged.layers])
    capacity = Capacity(8, state_slots(paged, len(PROMPTS)))
    runner = Runner(paged, capacity, on_host=on_host, kernels=kernels)
    first, rows, references = [], [], []
    for seq_id, (blocks, length) in enumerate(PROMPTS):
        sequence = TrialSequence(paged, seq_id, blocks)
        cuts = dict.fromkeys([*range(0, length - 2, max(2, length // 4)), length - 2])
        for number, (start, end) in enumerate(pairwise(cuts)):
            is_parted = paged.leaves_states and number < 2
            parted = sequence.parted_chunk(start, end, goes_back=number == 0) if is_parted else None
            for chunk in parted or [sequence.chunk(start, end)]:
                runner.prefill(chunk)
        first.append(sequence.row(length - 2))
        rows.append(sequence.row(length - 1))
        tokens = mx.array([sequence.tokens(0, length)])
        with mended_functions(paged.model):
            references.append(paged.model(tokens, cache=reference_caches(paged))[0, -1])
    expected = mx.stack(references)
    mx.eval(runner.logits(first))
    # Three times from the same states: the third time, where there are kernels, the pass is a compiled graph.
    errors = [largest_distance(runner.logits(rows), expected) for _ in range(3)]
    return _largest(errors) / tolerance(paged, expected.dtype)


def _largest(errors: list[float]) -> float:
    """Return the largest error; NaN if any is NaN, which `max` would lose."""
    return float(np.max(errors))


def tolerance(paged: PagedModel, dtype: mx.Dtype) -> float:
    """Return how far logits of type `dtype` may lie apart."""
    is_tf32 = dtype == mx.float32 and mx.default_device() == mx.Device(mx.gpu)
    kv_bits = paged.layers[0].shape.kv_bits if paged.layers else UNQUANTISED
    of_codes = QUANTISED_TOLERANCE.get(kv_bits, 0.0)
    return max(TF32_TOLERANCE if is_tf32 else TOLERANCE[dtype], of_codes)


def logits_mismatch(paged: PagedModel, kernels: PagedKernels) -> float:
    """Decode several rows for many steps; return the share of rows whose logits differ from plain MLX's.

    Steps are queued without a wait for results: each must find the KV that earlier steps wrote in place.
    """
    plain, computed = _trial_logits(paged, None), _trial_logits(paged, kernels)
    agrees = _distances(computed, plain) <= tolerance(paged, plain.dtype)  # NaN does not agree
    return float((~agrees).mean())


def _trial_logits(paged: PagedModel, kernels: PagedKernels | None) -> mx.array:
    """Decode given tokens; return the logits of each step and row, (steps, rows, vocab)."""
    num_rows = len(TRIAL_LENGTHS)
    blocks = -(-(max(TRIAL_LENGTHS) + TRIAL_STEPS) // BLOCK_SIZE)
    capacity = Capacity(num_rows * blocks, state_slots(paged, num_rows))
    runner = Runner(paged, capacity, on_host=False, kernels=kernels)
    sequences = []
    for row, length in enumerate(TRIAL_LENGTHS):
        sequence = TrialSequence(paged, row, [row + num_rows * i for i in range(blocks)])
        for start, end in pairwise([0, length // 2, length - 1]):
            if end > start:
                runner.prefill(sequence.chunk(start, end))
        sequences.append(sequence)
    steps = []
    for step in range(-1, TRIAL_STEPS - 1):
        pairs = zip(sequences, TRIAL_LENGTHS, strict=True)
        steps.append(runner.logits([sequence.row(length + step) for sequence, length in pairs]))
        mx.async_eval(steps[-1])
    return mx.stack(steps)


def with_trial_window(spec: AttentionSpec) -> AttentionSpec:
    """Return a layer with the window of the check in place of its own, if it has one."""
    return spec if spec.window is None else replace(spec, window=TRIAL_WINDOW)


def largest_distance(a: mx.array, b: mx.array) -> float:
    """Return the largest distance of two vectors along the last axis, relative to the size of that in `b`."""
    return float(_distances(a, b).max())


def _distances(a: mx.array, b: mx.array) -> Any:
    """Return the distances of vectors along the last axis, relative to the size of the vectors in `b`."""
    x, y = np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32))
    with np.errstate(invalid="ignore"):  # of infinities; the distance is then no number
        return np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)
