"""How memory is divided where layers that see a window of tokens keep no more than it.

Such layers need a window for each running sequence, one for each checkpoint of the prefix tree, and room for
the tokens of a step's slices. Other layers get the rest, and so hold many times as many tokens. If the model
has recurrent layers too, running sequences and checkpoints have states beside their windows.
"""

from dataclasses import replace
from typing import NamedTuple

from ...cache.blocks import BLOCK_SIZE
from ..served_model import WindowPool
from .model_info import ModelInfo
from .state_plan import STATES_A_SEQUENCE, LeastBytes

TOKENS_A_WINDOW = 8192
"""Tokens of KV in other layers beside each checkpoint: a session of 60,000 tokens keeps 8 at most, those
at its end have most blocks in common."""

LEAST_SHARE = 0.02
"""The share of the memory that checkpoints get at least, where windows are small."""

LEAST_CHECKPOINTS = 2
"""Without the end of a prompt and that of its answer, each turn would be computed from its beginning."""

RUNNING_SHARE, SLICE_SHARE = 1 / 4, 1 / 8
"""The most of the memory that windows of running sequences take, and that a step's slices take."""

SLICE_STEP = 512
"""Tokens of the shortest slices, of which longer ones are multiples."""


class WindowDivision(NamedTuple):
    """Memory as it is divided between layers with a window and others."""

    num_blocks: int  # of layers that keep all tokens
    pool: WindowPool
    num_state_slots: int  # 0 for a model without recurrent states


class Demand(NamedTuple):
    """What is asked of the memory."""

    tokens: int  # least tokens of KV
    max_batch: int  # sequences that are to run at once, if memory allows
    step_tokens: int  # tokens of the longest step that is of use
    useful_blocks: int  # blocks of KV beyond which more are of no use
    running_states: int  # bytes of the recurrent states of a running sequence


def least_bytes(info: ModelInfo, tokens: int, running_states: int) -> LeastBytes:
    """Return the least memory for a context of `tokens`: one sequence runs, in short slices.

    Few checkpoints are among it. running_states: see Demand.
    """
    assert info.window is not None, "some layers see a window"
    pool = WindowPool(info.window, 0, SLICE_STEP)
    kept_bytes = info.kv_bytes_per_token - info.window_bytes_per_token
    num_window_blocks = pool.promised_blocks + LEAST_CHECKPOINTS * pool.state_blocks
    windows = num_window_blocks * info.window_bytes_per_token
    kv_bytes = BLOCK_SIZE * (-(-tokens // BLOCK_SIZE) * kept_bytes + windows)
    return LeastBytes(kv_bytes, running_states + LEAST_CHECKPOINTS * info.state_bytes)


def divide_windows(info: ModelInfo, budget: int, demand: Demand) -> WindowDivision | None:
    """Divide `budget` bytes; return None where they are fewer than `least_bytes`."""
    assert info.window is not None, "some layers see a window"
    spare = budget - sum(least_bytes(info, demand.tokens, demand.running_states))
    if spare < 0:
        return None
    window_bytes = BLOCK_SIZE * info.window_bytes_per_token
    kept_bytes = BLOCK_SIZE * (info.kv_bytes_per_token - info.window_bytes_per_token)
    more = int(min(budget * SLICE_SHARE, spare / 2)) // info.window_bytes_per_token
    slice_tokens = min(demand.step_tokens, SLICE_STEP + more // SLICE_STEP * SLICE_STEP)
    pool = WindowPool(info.window, 0, slice_tokens)
    running_bytes = pool.sequence_blocks * window_bytes + demand.running_states
    more = int(min(budget * RUNNING_SHARE, spare / 2)) // running_bytes
    # Prompts have half of a step's tokens, however many sequences decode.
    pool = replace(pool, max_running=min(demand.max_batch, slice_tokens // 2, 1 + more))
    rest = budget - pool.promised_blocks * window_bytes - pool.max_running * demand.running_states
    room = rest - -(-demand.tokens // BLOCK_SIZE) * kept_bytes
    each = max(1, pool.state_blocks) * window_bytes + info.state_bytes
    checkpoints = rest // (each + TOKENS_A_WINDOW // BLOCK_SIZE * kept_bytes)
    checkpoints = max(checkpoints, int(rest * LEAST_SHARE) // each, LEAST_CHECKPOINTS)
    checkpoints = min(checkpoints, room // each)
    num_window_blocks = pool.promised_blocks + checkpoints * pool.state_blocks
    num_blocks = demand.useful_blocks
    if kept_bytes:
        num_blocks = min(num_blocks, (rest - checkpoints * each) // kept_bytes)
    slots = STATES_A_SEQUENCE * pool.max_running + checkpoints if info.state_bytes else 0
    return WindowDivision(num_blocks, replace(pool, num_blocks=num_window_blocks), slots)
