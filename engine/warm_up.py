"""Steps that run before the server is ready, so that no request waits for a compiler.

On a GPU, MLX compiles many of its operations when they first run, 3 to 5 s each on an H200: the first prompt
on a new machine waited for them. MLX keeps what it has compiled as files. Log-probabilities are left out.
"""

from itertools import repeat

from ..cache.blocks import BLOCK_SIZE
from .paged_caches import Capacity
from .runner import Runner
from .step import DecodeRow, PrefillChunk, SamplingParams, StateSlots, StepPlan

SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_k=20, top_p=0.9, min_p=0.01),
)
"""One of each kind of sampling that has operations of its own."""

BATCHES = (1, 3)
"""Rows: a batch of one row takes operations of its own in places."""


def warm_up(runner: Runner, vocab_size: int, capacity: Capacity) -> None:
    """Run steps of every kind. Writes to slots that no sequence holds yet, of KV and of states.

    capacity: that of `runner`, with two state slots or more, or none. Raises StepFailed.
    """
    num_blocks, num_slots, num_window_blocks = capacity
    has_windows = num_window_blocks is not None
    prompt = [0] * (BLOCK_SIZE - 1)
    begun: list[StateSlots | None] = [StateSlots(None, 0), StateSlots(0, 1)] if num_slots else [None]
    for state in begun:
        slots = ((0, len(prompt)),)
        chunk = PrefillChunk(0, prompt, 0, slots, state, slots if has_windows else ())
        runner.step(StepPlan(0, prefill=[chunk]))
        runner.drain()
    # All rows start from the state in slot 0, and leave theirs in slots of their own.
    states: list[StateSlots | None] = [StateSlots(0, slot) for slot in range(1, num_slots)]
    masks = (None, b"\xff" * -(-vocab_size // 8))
    plans = [(sampling, rows, mask) for sampling in SAMPLINGS for rows in BATCHES for mask in masks]
    for step_id, (sampling, num_rows, mask) in enumerate(plans, 1):
        rows = []
        for row, state in zip(range(min(num_rows, num_blocks)), states or repeat(None), strict=False):
            slots = ((row * BLOCK_SIZE, row * BLOCK_SIZE + 1),)
            windows = slots if has_windows else ()
            rows.append(DecodeRow(row, 0, 0, slots, sampling, mask, state, window_ranges=windows))
        runner.step(StepPlan(step_id, decode=rows))
        runner.drain()
