"""`pensieve serve` under `mlx.launch`, as a rank other than 0: it keeps a process that computes its part."""

import os
import time

from ...engine.logs import set_up_logging
from ...engine.ranks.rank_hosts import launched_rank
from ...engine.ranks.rank_link import RankError
from ...engine.ranks.rank_process import RankProcess
from ..config import ServerConfig
from .console import say

PATIENCE_S = 120.0
"""Seconds that rank 0 may be gone for: it comes back when its server starts a new engine."""

PAUSE_S = 1.0
"""Seconds between two starts."""


def follow_rank(config: ServerConfig) -> None:
    """Compute what rank 0 sends, until this process is ended. Raises RankError when rank 0 stays away."""
    set_up_logging(config.log_level)
    rank = launched_rank(os.environ)
    say(f"rank {rank}   serves with rank 0, which answers requests")
    seen_s = time.monotonic()
    while time.monotonic() - seen_s < PATIENCE_S:
        with RankProcess(os.environ) as process:
            if process.wait_end():
                seen_s = time.monotonic()
        time.sleep(PAUSE_S)
    raise RankError(f"rank {rank} ends: rank 0 has been away for {PATIENCE_S:.0f} s")
