"""The other ranks, as rank 0 knows them: started by it or by a launcher, told what to do, and watched.

A rank that is lost takes this process with it: what MLX has queued waits for that rank for ever. The server's
process then starts a new engine, which starts the ranks anew, and computes everything again.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn

from .rank_hosts import RankHosts, find_hosts
from .rank_link import BEAT_S, FrameKind, Link, LinkClosed, RankError, start_thread
from .rendezvous import Group, accept_ranks, enter_group

logger = logging.getLogger(__name__)

SILENT_S = 7.0
"""Seconds after which a rank that sends no heartbeats is given up."""

LOST_STATUS = 70
"""Status with which this process ends when a rank is lost."""


class RankTeam:
    """All ranks but this one, which is rank 0."""

    def __init__(self, group: Group, links: list[Link], started: list["subprocess.Popen[bytes]"]) -> None:
        """links: to ranks 1, 2, ... started: the processes of those that this one has started."""
        self.group = group
        self._links = links
        self._started = started
        self._answers: list[queue.Queue[dict[str, Any] | RankError]] = [queue.Queue() for _ in links]
        self._is_asking = False
        self._heard_s = [time.monotonic()] * len(links)
        for index in range(len(links)):
            start_thread(f"rank {index + 1}", self._listen, index)
        start_thread("ranks", self._watch)

    @property
    def size(self) -> int:
        """Number of all ranks."""
        return len(self._links) + 1

    def ask(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a JSON object to all ranks; return the answer of each. Raises RankError."""
        self.begin(message)
        return self.answers()

    def begin(self, message: dict[str, Any]) -> None:
        """Send a JSON object to all ranks, which work on it while this one does. Raises RankError."""
        self._is_asking = True
        try:
            for link in self._links:
                link.tell(message)
        except LinkClosed as error:
            raise RankError("a rank has ended") from error

    def answers(self) -> list[dict[str, Any]]:
        """Return the answer of each rank to what was sent last. Raises RankError."""
        answers = []
        for each in self._answers:
            answer = each.get()
            if isinstance(answer, RankError):
                raise answer
            answers.append(answer)
        self._is_asking = False
        return answers

    def send(self, kind: FrameKind, content: bytes = b"") -> None:
        """Send a frame to all ranks. Does not return where one has ended."""
        for index, link in enumerate(self._links):
            try:
                link.send(kind, content)
            except LinkClosed:
                self.give_up(f"rank {index + 1} has ended")

    def give_up(self, why: str) -> NoReturn:
        """End this process: the ranks no longer compute the same."""
        logger.error("%s: all ranks stop", why)
        for process in self._started:
            process.kill()  # one that is stopped does not see that this process ends
        sys.stderr.flush()
        os._exit(LOST_STATUS)

    def _listen(self, index: int) -> None:
        try:
            while True:
                kind, content = self._links[index].receive()
                self._heard_s[index] = time.monotonic()
                if kind is FrameKind.FAILURE:
                    self._lose(index, f"rank {index + 1}: {content.decode(errors='replace')}")
                elif kind is FrameKind.MESSAGE:
                    self._answers[index].put(json.loads(content))
        except (LinkClosed, ValueError):
            self._lose(index, f"rank {index + 1} has ended")

    def _watch(self) -> None:
        looked_s = time.monotonic()
        while True:
            time.sleep(BEAT_S)
            now_s = time.monotonic()
            if now_s - looked_s > 2 * BEAT_S:  # this process itself was stopped for a while
                self._heard_s = [now_s] * len(self._links)
            looked_s = now_s
            for index, heard_s in enumerate(self._heard_s):
                if now_s - heard_s > SILENT_S:
                    self.give_up(f"rank {index + 1} has not moved for {now_s - heard_s:.0f} s")

    def _lose(self, index: int, why: str) -> None:
        """Tell of a lost rank whoever waits for its answer; without such, end this process."""
        if not self._is_asking:
            self.give_up(why)
        self._answers[index].put(RankError(why))


@cache
def find_team(hostfile: str | None) -> RankTeam | None:
    """Return the other ranks, started at the first call; None where the model is on one device.

    Kept for this process's life, as MLX's own group is. Raises RankError.
    """
    hosts = find_hosts(hostfile, os.environ)
    if hosts is None:
        return None
    started = start_local_ranks(hosts)
    group = enter_group(hosts)
    return RankTeam(group, accept_ranks(group, hosts), started) if group.size() > 1 else None


def start_local_ranks(hosts: RankHosts) -> list["subprocess.Popen[bytes]"]:
    """Start the processes of the ranks on this machine, and make this process rank 0 of them.

    They end with this process, which holds their standard input and their connection.
    """
    if not hosts.environments:
        return []
    first, *others = hosts.environments
    os.environ.update(first)
    return [start_follower(os.environ | own) for own in others]


def start_follower(environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the process of one rank other than 0."""
    level = logging.getLevelName(logging.getLogger("pensieve").getEffectiveLevel()).lower()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pensieve.engine.follower", level],
        env=dict(environment),
        stdin=subprocess.PIPE,
    )
