"""The other ranks, as rank 0 knows them: started by it or by a launcher, told what to do, and watched.

A rank that is lost takes this process with it: what MLX has queued waits for that rank for ever. The server's
process then starts a new engine, which starts the ranks anew, and computes everything again.
"""

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from typing import Any, NoReturn, TypeVar

from .rank_hosts import find_hosts, local_environments
from .rank_link import (
    BEAT_S,
    LOST_STATUS,
    REFUSED,
    FrameKind,
    Link,
    LinkClosed,
    RankError,
    start_thread,
)
from .rank_process import RankProcess
from .rendezvous import Group, accept_ranks, enter_group

logger = logging.getLogger(__name__)

SILENT_S = 7.0
"""Seconds after which a rank that sends no heartbeats is given up."""

TELL_S = 3.0
"""Seconds that who waits for answers has to take a failure: it may wait in MLX for the lost rank instead."""


Own = TypeVar("Own")


class RankTeam:
    """All ranks but this one, which is rank 0."""

    def __init__(self, group: Group, links: list[Link], started: list[RankProcess]) -> None:
        """links: to ranks 1, 2, ... started: the processes of those that this one has started."""
        self.group = group
        self._links = links
        self._started = started
        self._answers: list[queue.Queue[dict[str, Any] | RankError]] = [queue.Queue() for _ in links]
        self._is_asking = False
        self._failure: RankError | None = None  # once told
        self._failure_told = threading.Event()
        self._heard_s = [time.monotonic()] * len(links)
        for index in range(len(links)):
            start_thread(f"rank {index + 1}", self._listen, index)
        start_thread("ranks", self._watch)

    @property
    def size(self) -> int:
        """Number of all ranks."""
        return len(self._links) + 1

    def begin(self, message: dict[str, Any]) -> None:
        """Send a JSON object to all ranks, which work on it while this one does. Raises RankError.

        A team that has lost a rank and has told why tells it again.
        """
        if self._failure is not None:
            raise self._failure
        self._is_asking = True
        try:
            for link in self._links:
                link.tell(message)
        except LinkClosed as error:
            raise RankError("a rank has ended") from error

    def ask(self, message: dict[str, Any], work: Callable[[], Own]) -> tuple[Own, list[dict[str, Any]]]:
        """Send a JSON object to all ranks; return what `work` returns here, and their answers.

        They must answer without this rank's help: their answers are taken also where the work fails, as the
        next question would get them otherwise. Raises RankError, and what the work raises.
        """
        self.begin(message)
        try:
            own = work()
        except Exception:
            with suppress(RankError):  # often for the same reason
                self.answers()
            raise
        return own, self.answers()

    def answers(self) -> list[dict[str, Any]]:
        """Return the answer of each rank to what was sent last. Raises RankError, once all have answered."""
        answers = [each.get() for each in self._answers]
        self._is_asking = False
        for number, answer in enumerate(answers, 1):
            if isinstance(answer, RankError):
                self._failure = answer
                self._failure_told.set()
                raise answer
            if REFUSED in answer:
                raise RankError(f"rank {number}: {answer[REFUSED]}")
        return [answer for answer in answers if not isinstance(answer, RankError)]

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
                    return  # it ends now, which is no other reason
                elif kind is FrameKind.MESSAGE:
                    self._answers[index].put(json.loads(content))
        except (LinkClosed, ValueError):
            self._lose(index, f"rank {index + 1} has ended")

    def _watch(self) -> None:
        looked_s = time.monotonic()
        while not self._failure_told.wait(BEAT_S):
            now_s = time.monotonic()
            if now_s - looked_s > 2 * BEAT_S:  # this process itself was stopped for a while
                self._heard_s = [now_s] * len(self._links)
            looked_s = now_s
            for index, heard_s in enumerate(self._heard_s):
                if now_s - heard_s > SILENT_S:
                    self.give_up(f"rank {index + 1} has not moved for {now_s - heard_s:.0f} s")

    def _lose(self, index: int, why: str) -> None:
        """Tell of a lost rank whoever waits for answers; end this process where nobody takes it."""
        if self._is_asking or self._failure_told.is_set():
            self._answers[index].put(RankError(why))
            if self._failure_told.wait(TELL_S):
                return
        self.give_up(why)


@cache
def find_team(hostfile: str | None) -> RankTeam | None:
    """Return the other ranks, started at the first call; None where the model is on one device.

    Kept for this process's life, as MLX's own group is. Raises RankError.
    """
    hosts = find_hosts(hostfile, os.environ)
    if hosts is None:
        return None
    with ExitStack() as stack:  # of what is undone where the ranks do not meet
        with local_environments(hosts) as environments:
            started = start_local_ranks(environments, stack)
            group = enter_group(hosts)
            links = accept_ranks(group, hosts)
        stack.pop_all()
    return RankTeam(group, links, started) if links else None


def start_local_ranks(environments: list[dict[str, str]], stack: ExitStack) -> list[RankProcess]:
    """Start the processes of all ranks but 0, which this process becomes, and wait until they are ready.

    They end with this process, which holds their standard input and their connection. Raises RankError.
    stack: ends them when it is closed, and gives this process its own environment back.
    """
    started = [stack.enter_context(RankProcess(os.environ | own)) for own in environments[1:]]
    for process in started:
        process.wait_ready()
    for own in environments[:1]:
        stack.callback(_restore_environment, {name: os.environ.get(name) for name in own})
        os.environ.update(own)
    return started


def _restore_environment(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
