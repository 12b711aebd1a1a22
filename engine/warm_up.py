"""Steps that run before the server is ready, so that no request waits for a compiler.

On a GPU, MLX compiles many of its operations when they first run, 3 to 5 s each on an H200: the first prompt
on a new machine waited for them. MLX keeps what it has compiled as files. Log-probabilities are left out.
"""

from ..cache.blocks import BLOCK_SIZE
from .runner import Runner
from .step import DecodeRow, PrefillChunk, SamplingParams, StepPlan

SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_k=20, top_p=0.9, min_p=0.01),
)
"""One of each kind of sampling that has operations of its own."""

BATCHES = (1, 3)
"""Rows: a batch of one row takes operations of its own in places."""


def warm_up(runner: Runner, vocab_size: int, num_blocks: int) -> None:
    """Run steps of every kind. Writes to slots of blocks that no sequence holds yet. Raises StepFailed."""
    runner.step(StepPlan(0, prefill=[PrefillChunk(0, [0] * (BLOCK_SIZE - 1), 0, ((0, BLOCK_SIZE - 1),))]))
    runner.drain()
    masks = (None, b"\xff" * -(-vocab_size // 8))
    plans = [(sampling, rows, mask) for sampling in SAMPLINGS for rows in BATCHES for mask in masks]
    for step_id, (sampling, num_rows, mask) in enumerate(plans, 1):
        rows = [
            DecodeRow(row, 0, 0, ((row * BLOCK_SIZE, row * BLOCK_SIZE + 1),), sampling, mask)
            for row in range(min(num_rows, num_blocks))
        ]
        runner.step(StepPlan(step_id, decode=rows))
        runner.drain()
