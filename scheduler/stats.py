"""A snapshot of the scheduler's state and counters, for /health and /metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot for /health and /metrics; counters only grow."""

    num_running: int
    num_waiting: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int  # kept for reuse only; may be evicted
    blocks_held: int  # in use by sequences
    prompt_tokens: int  # counter: prompt tokens of admitted sequences
    computed_tokens: int  # counter: prompt tokens really computed
    generation_tokens: int  # counter
    refused_tokens: int  # counter: sampled, but thrown away because of a constraint
    prefix_cache_queries: int  # counter, tokens looked up
    prefix_cache_hits: int  # counter, tokens found
    prefix_waits: int  # counter: sequences that waited for another to compute their shared prefix
    evictions: int  # counter, blocks
    preemptions: int  # counter
    failed_steps: int  # counter
    steps: int  # counter
    current_step_s: float  # how long the step under way has taken, 0 when idle
    engine_error: str | None  # why the engine is down, None while it is well
