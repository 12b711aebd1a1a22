"""How many recurrent states the memory holds: those of running sequences, and those that the tree keeps."""

from typing import NamedTuple

from .device import DeviceKind
from .model_info import ModelInfo

STATES_A_SEQUENCE = 3
"""State slots that a running sequence may need at once, as the scheduler promises them."""

WORKING_STATES: dict[DeviceKind, int] = {"metal": 2, "cuda": 2, "cpu": 3}
"""States that a decode pass holds of each row beside the slots: what it has read, and what it is to write.

On MLX's CPU device layers' intermediate results, which MLX allocates ahead of the computation, take up to one
more: 2.2 to 3.0 were measured with 16 to 24 layers of five kinds, and 1.3 to 1.7 where MLX is lazy.
"""

TOKENS_A_STATE = 4096
"""Tokens of KV for which the memory has room beside each state.

A conversation of 60,000 tokens keeps at most 8 checkpoints of its recurrent state (`cache/checkpoints.py`),
and while it runs five states more.
"""

MIN_TOKENS_A_STATE = 512
"""Tokens of KV for each of which one state at most is kept, beside those of running sequences.

More states would not be used.
"""

MIN_STATE_SHARE = 0.02
"""The share of the memory that states get at least, where they are small."""


class LeastBytes(NamedTuple):
    """The least memory with which a sequence runs."""

    kv: int  # bytes of KV, of windows among it
    states: int  # bytes of recurrent states


def running_states(info: ModelInfo, kind: DeviceKind) -> int:
    """Return the bytes of the recurrent states without which a sequence cannot run."""
    return (STATES_A_SEQUENCE + WORKING_STATES[kind]) * info.state_bytes


class StateDemand(NamedTuple):
    """What is asked of the memory beside KV."""

    kind: DeviceKind
    max_batch: int  # sequences that are to run at once, if memory allows
    useful_tokens: int  # tokens of KV beyond which more are of no use


def choose_state_slots(info: ModelInfo, budget: int, room: int, demand: StateDemand) -> int:
    """Return how many recurrent states are kept, beside KV of all tokens.

    budget: bytes for KV and states. room: bytes of it that states may take at most.
    """
    if not info.state_bytes:
        return 0
    kv_beside = TOKENS_A_STATE * info.kv_bytes_per_token
    share = max(MIN_STATE_SHARE, info.state_bytes / (info.state_bytes + kv_beside))
    kind, max_batch, tokens = demand
    tokens = min(tokens, budget // info.kv_bytes_per_token) if kv_beside else tokens
    useful = STATES_A_SEQUENCE * max_batch + tokens // MIN_TOKENS_A_STATE
    fitting = min(int(budget * share), room) // info.state_bytes
    running = min(max_batch, fitting // (STATES_A_SEQUENCE + WORKING_STATES[kind]))
    slots = fitting - WORKING_STATES[kind] * running
    if running < max_batch:  # a slot more would let another sequence run
        slots = min(slots, STATES_A_SEQUENCE * (running + 1) - 1)
    return max(STATES_A_SEQUENCE, min(useful, slots))
