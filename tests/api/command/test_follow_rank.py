"""A rank of a launcher that rank 0 has left waits for it, but not for ever."""

from collections.abc import Iterator
from typing import Any

import pytest

from pensieve.api.command import follow_rank as follow_module
from pensieve.api.command.follow_rank import PATIENCE_S, follow_rank
from pensieve.api.config import ServerConfig
from pensieve.engine.ranks.rank_link import RankError


class Clock:
    """A clock that goes on with the processes of a rank, each of which lives for some time."""

    def __init__(self, lives: list[tuple[float, bool]]) -> None:
        """lives: seconds of each process, and whether it has met rank 0."""
        self.now_s = 0.0
        self.lives: Iterator[tuple[float, bool]] = iter(lives)
        self.num_started = 0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def start(self, _: Any) -> "Clock":
        self.num_started += 1
        return self

    def wait_end(self) -> bool:
        seconds, has_met = next(self.lives)
        self.now_s += seconds
        return has_met

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_rank_of_a_launcher_waits_for_rank_0_however_it_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that was killed after hours once ended for good, and with it what mlx.launch had started."""
    clock = Clock([(36_000, True), (9, False), (7_200, True), *[(PATIENCE_S / 2, False)] * 9])
    monkeypatch.setattr(follow_module, "time", clock)
    monkeypatch.setattr(follow_module, "RankProcess", clock.start)
    with pytest.raises(RankError, match="rank 0 has been away"):
        follow_rank(ServerConfig())
    assert clock.num_started == 5
