"""How memory is divided where layers that see a window of tokens keep no more than it.

Such layers need a window for each running sequence, one for each checkpoint of the prefix tree, and room for
the tokens of a step's slices. Other layers get the rest, and so hold many times as many tokens.
"""

from dataclasses import replace
from typing import NamedTuple

from ...cache.blocks import BLOCK_SIZE
from ..served_model import WindowPool
from .model_info import ModelInfo

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


class Demand(NamedTuple):
    """What is asked of the memory."""

    tokens: int  # least tokens of KV
    max_batch: int  # sequences that are to run at once, if memory allows
    step_tokens: int  # tokens of the longest step that is of use
    useful_blocks: int  # blocks of KV beyond which more are of no use


def least_bytes(info: ModelInfo, tokens: int) -> int:
    """Return the bytes that `tokens` of KV take at least: one sequence runs, in short slices.

    Few checkpoints are among them.
    """
    assert info.window is not None, "some layers see a window"
    pool = WindowPool(info.window, 0, SLICE_STEP)
    kept_bytes = info.kv_bytes_per_token - info.window_bytes_per_token
    num_window_blocks = pool.promised_blocks + LEAST_CHECKPOINTS * pool.state_blocks
    windows = num_window_blocks * info.window_bytes_per_token
    return BLOCK_SIZE * (-(-tokens // BLOCK_SIZE) * kept_bytes + windows)


def divide_windows(info: ModelInfo, budget: int, demand: Demand) -> WindowDivision | None:
    """Divide `budget` bytes; return None where they are fewer than `least_bytes`."""
    assert info.window is not None, "some layers see a window"
    spare = budget - least_bytes(info, demand.tokens)
    if spare < 0:
        return None
    window_bytes = BLOCK_SIZE * info.window_bytes_per_token
    kept_bytes = BLOCK_SIZE * (info.kv_bytes_per_token - info.window_bytes_per_token)
    more = int(min(budget * SLICE_SHARE, spare / 2)) // info.window_bytes_per_token
    slice_tokens = min(demand.step_tokens, SLICE_STEP + more // SLICE_STEP * SLICE_STEP)
    pool = WindowPool(info.window, 0, slice_tokens)
    more = int(min(budget * RUNNING_SHARE, spare / 2)) // (pool.sequence_blocks * window_bytes)
    # Prompts have half of a step's tokens, however many sequences decode.
    pool = replace(pool, max_running=min(demand.max_batch, slice_tokens // 2, 1 + more))
    rest = budget - pool.promised_blocks * window_bytes
    room = rest - -(-demand.tokens // BLOCK_SIZE) * kept_bytes
    state_bytes = max(1, pool.state_blocks) * window_bytes
    states = rest // (state_bytes + TOKENS_A_WINDOW // BLOCK_SIZE * kept_bytes)
    states = max(states, int(rest * LEAST_SHARE) // state_bytes, LEAST_CHECKPOINTS)
    states = min(states, room // state_bytes)
    num_window_blocks = pool.promised_blocks + states * pool.state_blocks
    num_blocks = demand.useful_blocks
    if kept_bytes:
        num_blocks = min(num_blocks, (rest - states * state_bytes) // kept_bytes)
    return WindowDivision(num_blocks, replace(pool, num_blocks=num_window_blocks))
