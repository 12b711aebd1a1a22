"""The statistics of a server that has done nothing."""

from pensieve.scheduler.counters import Counters
from pensieve.scheduler.stats import Stats

EMPTY_STATS = Stats(
    num_running=0,
    num_waiting=0,
    blocks_total=100,
    blocks_free=60,
    blocks_cached=30,
    blocks_held=10,
    states_total=40,
    states_free=30,
    states_cached=8,
    states_held=2,
    window_blocks_total=60,
    window_blocks_free=40,
    window_blocks_cached=15,
    window_blocks_held=5,
    counters=Counters(),
    state="ok",
    current_step_s=0.0,
    engine_error=None,
)
