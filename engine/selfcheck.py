"""Compares paged attention with mlx-lm's own, on the user's model and device, before anything is served."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from ..cache.blocks import BLOCK_SIZE, BlockTable
from .runner import Runner
from .step import DecodeRow, PrefillChunk, SamplingParams

AGREEMENT = 0.99
"""Least cosine similarity of logits; rounding in 16 bits stays above it, a wrong mask or position does not."""


def agreement(model: nn.Module, vocab_size: int, on_host: bool) -> float:
    """Smallest cosine similarity between paged and plain logits over two prompts.

    The prompts are prefilled in two slices each and decoded together, over blocks out of order.
    Raises whatever the model raises when it cannot work on paged KV.
    """
    runner = Runner(model, num_blocks=8, on_host=on_host)
    rows, expected = [], []
    for seq_id, blocks in enumerate([[5, 2, 3], [7, 0]]):
        table = BlockTable()
        table.extend(blocks)
        tokens = [(seq_id + 7919 * i) % vocab_size for i in range(table.num_slots - 5)]
        cut, last = BLOCK_SIZE + 3, len(tokens) - 1
        runner.prefill(PrefillChunk(seq_id, tokens[:cut], 0, table.runs(cut)))
        runner.prefill(PrefillChunk(seq_id, tokens[cut:last], cut, table.runs(last)))
        rows.append(DecodeRow(seq_id, tokens[last], last, table.runs(last + 1), SamplingParams()))
        plain = model(mx.array([tokens]), cache=make_prompt_cache(model))
        expected.append(plain[0, -1])
    return _smallest_cosine(runner.logits(rows), mx.stack(expected))


def _smallest_cosine(a: mx.array, b: mx.array) -> float:
    x, y = np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32))
    cosines = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    return float(cosines.min())
