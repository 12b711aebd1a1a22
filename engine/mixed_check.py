"""Finds out, before a model is served, whether slices of prompts and decode rows may share a pass over it.

They may where the model treats each token by itself everywhere but in attention, and where its layers can be
called for some of the rows, see `divide_last_layer`.
"""

import logging
from dataclasses import replace

import mlx.core as mx

from ..cache.blocks import BlockTable
from .attention.kernels.paged_kernels import PagedKernels
from .attention.paged_model import PagedModel
from .runner import Runner
from .selfcheck import largest_distance, tolerance, with_trial_window
from .step import DecodeRow, PrefillChunk, SamplingParams

logger = logging.getLogger(__name__)

BLOCKS = [[1, 6], [2], [4, 3], [5, 0]]
"""Blocks of the sequences tried, out of order. The first two decode beside slices of the others."""

DECODING, SLICES = [37, 5], [(20, 41), (0, 33)]
"""Tokens of the sequences that decode; where the other sequences' slices begin and end."""

MAX_MIXED_TOKENS = 128
"""Prompt tokens of a step up to which slices and decode rows share a pass on MLX's CPU device.

A pass saved is one read of the weights. Beside more prompt tokens than these it made no difference that could
be measured. On GPUs a shared pass is no compiled graph, unlike the decode rows' own; see docs/decisions.md.
"""


def choose_mixed_tokens(paged: PagedModel, on_host: bool) -> int:
    """Return the prompt tokens of a step up to which its slices and decode rows share a pass; 0 for never."""
    return MAX_MIXED_TOKENS if on_host and can_mix(paged, on_host, None) else 0


def can_mix(paged: PagedModel, on_host: bool, kernels: PagedKernels | None) -> bool:
    """Return whether one pass over decode rows and slices gives the logits that a pass for each gives."""
    paged = replace(paged, layers=[with_trial_window(spec) for spec in paged.layers])
    try:
        expected = _trial_logits(Runner(paged, 8, on_host, kernels), paged.vocab_size, is_mixed=False)
        found = _trial_logits(Runner(paged, 8, on_host, kernels, 1), paged.vocab_size, is_mixed=True)
        error = largest_distance(found, expected) / tolerance(paged, expected.dtype)
    except Exception as exception:  # whatever the model raises for rows that it does not expect
        logger.info("prompts and answers are computed in passes of their own: %s", exception)
        return False
    return error <= 1


def _trial_logits(runner: Runner, vocab_size: int, is_mixed: bool) -> mx.array:
    """Compute decode rows beside slices, then the token after each slice; return (4, vocab) logits."""
    tables = [BlockTable() for _ in BLOCKS]
    for table, blocks in zip(tables, BLOCKS, strict=True):
        table.extend(blocks)

    def token(seq_id: int, position: int) -> int:
        return (seq_id + 7919 * position) % vocab_size

    def chunk(seq_id: int, start: int, end: int) -> PrefillChunk:
        tokens = [token(seq_id, position) for position in range(start, end)]
        return PrefillChunk(seq_id, tokens, start, tables[seq_id].slot_ranges(end))

    def row(seq_id: int, position: int) -> DecodeRow:
        slots = tables[seq_id].slot_ranges(position + 1)
        return DecodeRow(seq_id, token(seq_id, position), position, slots, SamplingParams())

    rows = [row(seq_id, length) for seq_id, length in enumerate(DECODING)]
    slices = [chunk(len(rows) + i, start, end) for i, (start, end) in enumerate(SLICES)]
    for seq_id, length in enumerate(DECODING):
        runner.prefill(chunk(seq_id, 0, length))
    for i, (start, _) in enumerate(SLICES):
        if start:
            runner.prefill(chunk(len(rows) + i, 0, start))
    if is_mixed:
        first = runner.mixed_logits(rows, slices)
        assert first is not None, "there are rows"
    else:
        first = runner.logits(rows)
        for prompt_slice in slices:
            runner.prefill(prompt_slice)
    after = runner.logits([row(len(rows) + i, end) for i, (_, end) in enumerate(SLICES)])
    return mx.concatenate([first, after])
