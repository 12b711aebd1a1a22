"""Finds out, before a model is served, whether slices of prompts and decode rows may share a pass over it.

They may where the model treats each token by itself everywhere but in attention, and where its layers can be
called for some of the rows, see `divide_last_layer`.
"""

import logging
from dataclasses import replace

import mlx.core as mx

from .attention.kernels.paged_kernels import PagedKernels
from .attention.paged_model import PagedModel
from .paged_caches import Capacity
from .runner import Runner
from .selfcheck import largest_distance, tolerance, with_trial_window
from .trial_sequence import TrialSequence

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
    """Return the prompt tokens of a step up to which its slices and decode rows share a pass; 0 for never.

    Recurrent layers must be told which tokens follow one another: they never share a pass. Nor do rows that
    are computed one at a time.
    """
    is_possible = on_host and not paged.states and not paged.is_fetched
    return MAX_MIXED_TOKENS if is_possible and can_mix(paged, on_host, None) else 0


def can_mix(paged: PagedModel, on_host: bool, kernels: PagedKernels | None) -> bool:
    """Return whether one pass over decode rows and slices gives the logits that a pass for each gives."""
    paged = replace(paged, layers=[with_trial_window(spec) for spec in paged.layers])
    try:
        apart, mixing = (Runner(paged, Capacity(8), on_host, kernels, tokens) for tokens in (0, 1))
        expected = _trial_logits(apart, paged, is_mixed=False)
        found = _trial_logits(mixing, paged, is_mixed=True)
        if found.shape != expected.shape:  # slices went on to the vocabulary's projection
            raise ValueError("the model's last layer keeps nothing, or is not the last that keeps something")
        error = largest_distance(found, expected) / tolerance(paged, expected.dtype)
    except Exception as exception:  # whatever the model raises for rows that it does not expect
        logger.info("prompts and answers are computed in passes of their own: %s", exception)
        return False
    return error <= 1


def _trial_logits(runner: Runner, paged: PagedModel, is_mixed: bool) -> mx.array:
    """Compute decode rows beside slices, then the token after each slice; return (4, vocab) logits."""
    sequences = [TrialSequence(paged, seq_id, blocks) for seq_id, blocks in enumerate(BLOCKS)]
    decoding, others = sequences[: len(DECODING)], sequences[len(DECODING) :]
    for sequence, length in zip(decoding, DECODING, strict=True):
        runner.prefill(sequence.chunk(0, length))
    for sequence, (start, _) in zip(others, SLICES, strict=True):
        if start:
            runner.prefill(sequence.chunk(0, start))
    rows = [sequence.row(length) for sequence, length in zip(decoding, DECODING, strict=True)]
    slices = [sequence.chunk(start, end) for sequence, (start, end) in zip(others, SLICES, strict=True)]
    if is_mixed:
        first = runner.mixed_logits(rows, slices)
        assert first is not None, "there are rows"
    else:
        first = runner.logits(rows)
        for prompt_slice in slices:
            runner.prefill(prompt_slice)
    after = runner.logits([sequence.row(end) for sequence, (_, end) in zip(others, SLICES, strict=True)])
    return mx.concatenate([first, after])
