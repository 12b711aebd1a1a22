"""The process of a rank other than 0, as the process that has started it sees it."""

import logging
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from .rank_link import RankError

READY, MET = b"r", b"m"
"""What a rank's process writes into its pipe: it is about to enter MLX's group; it is connected to rank 0."""

READY_S = 90.0
"""Seconds that a process has to import MLX."""


class RankProcess:
    """A process that ends with this one, which holds its standard input. A context manager: it kills it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the process. environment: has MLX's variables, which say which rank it is."""
        self._rank = environment.get("MLX_RANK", "?")
        level = logging.getLevelName(logging.getLogger("pensieve").getEffectiveLevel()).lower()
        self._news, sender = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pensieve.engine.follower", str(sender), level],
            env=dict(environment),
            stdin=subprocess.PIPE,
            pass_fds=[sender],
        )
        os.close(sender)

    def wait_ready(self) -> None:
        """Wait until it is about to enter MLX's group, which would wait for ever for one that has ended.

        Raises RankError where it ends before, or is not ready in time.
        """
        if not select.select([self._news], [], [], READY_S)[0]:
            raise RankError(f"rank {self._rank} has not started within {READY_S:.0f} s")
        if not os.read(self._news, len(READY)):
            status = self._process.wait()
            raise RankError(f"rank {self._rank} has ended with status {status} before it met the others")

    def wait_end(self) -> bool:
        """Wait until it ends; return whether it had met rank 0."""
        news = b""
        while part := os.read(self._news, 1):
            news += part
        self._process.wait()
        return MET in news

    def kill(self) -> None:
        """End it, also where it is stopped and so does not see that its standard input is closed."""
        self._process.kill()

    def __enter__(self) -> "RankProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        os.close(self._news)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
