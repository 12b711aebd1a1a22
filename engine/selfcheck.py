"""Compares paged attention with mlx-lm's own, on the user's model and device, before anything is served."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from ..cache.blocks import BlockTable
from .runner import Runner
from .step import DecodeRow, PrefillChunk, SamplingParams

TOLERANCE = {mx.float32: 1e-3, mx.float16: 0.03, mx.bfloat16: 0.1}
"""How far logits may lie apart by rounding alone, relative to their size."""

PROMPTS = [([5, 2, 3], 91), ([7], 5)]
"""Blocks, out of order, and tokens of the prompts tried; in the short one every token counts."""


def disagreement(model: nn.Module, vocab_size: int, on_host: bool) -> float:
    """Distance between paged and plain logits relative to their size, and to what rounding allows.

    The prompts are prefilled in two slices each and decoded together. Up to 1 is agreement.
    Raises whatever the model raises when it cannot work on paged KV.
    """
    runner = Runner(model, num_blocks=8, on_host=on_host)
    rows, expected = [], []
    for seq_id, (blocks, length) in enumerate(PROMPTS):
        table = BlockTable()
        table.extend(blocks)
        tokens = [(seq_id + 7919 * i) % vocab_size for i in range(length)]
        cut, last = length // 2, length - 1
        runner.prefill(PrefillChunk(seq_id, tokens[:cut], 0, table.runs(cut)))
        runner.prefill(PrefillChunk(seq_id, tokens[cut:last], cut, table.runs(last)))
        rows.append(DecodeRow(seq_id, tokens[last], last, table.runs(last + 1), SamplingParams()))
        expected.append(model(mx.array([tokens]), cache=make_prompt_cache(model))[0, -1])
    plain = mx.stack(expected)
    return _largest_distance(runner.logits(rows), plain) / TOLERANCE[plain.dtype]


def _largest_distance(a: mx.array, b: mx.array) -> float:
    x, y = np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32))
    distances = np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)
    return float(distances.max())
