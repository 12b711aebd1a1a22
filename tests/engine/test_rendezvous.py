"""Ranks find each other, whoever else knocks."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from pensieve.engine.ranks import rank_team, rendezvous
from pensieve.engine.ranks.rank_hosts import RankHosts
from pensieve.engine.ranks.rank_link import FAILED_STATUS, FrameKind, Link, RankError
from pensieve.engine.ranks.rank_team import RankTeam, find_team
from pensieve.engine.ranks.rendezvous import RANK, SECRET_BYTES, _admit, accept_ranks, enter_group


def test_only_who_knows_the_secret_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing once kept the ranks waiting for a minute."""
    monkeypatch.setattr(rendezvous, "ADMIT_S", 0.05)
    sockets: list[socket.socket] = []

    def knock(group: Any, note: bytes) -> bytes:
        """Connect as a stranger, as one who guesses, and as rank 1, in this order."""
        host, port = note[SECRET_BYTES:].rstrip(b"\0").decode().split()
        for said in (b"", bytes(SECRET_BYTES) + RANK.pack(1), note[:SECRET_BYTES] + RANK.pack(1)):
            sockets.append(socket.create_connection((host, int(port)), timeout=10))
            sockets[-1].sendall(said)
        return note

    monkeypatch.setattr(rendezvous, "_share", knock)
    [link] = accept_ranks(SimpleNamespace(size=lambda: 2), RankHosts("ring", "127.0.0.1"))
    threading.Thread(target=link.send, args=(FrameKind.BEAT,)).start()
    assert sockets[2].recv(1) == bytes([FrameKind.BEAT])
    assert sockets[0].recv(1) == sockets[1].recv(1) == b""  # closed
    link.close()
    for each in sockets:
        each.close()


def test_a_connection_has_one_time_limit_for_the_whole_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sent byte after byte kept the ranks waiting for 36 times as long."""
    clock = iter(range(1000))
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    parts: list[int] = []

    def drip(count: int) -> bytes:
        parts.append(count)
        return b"x"

    stranger: Any = SimpleNamespace(settimeout=lambda seconds: None, recv=drip, close=lambda: parts.append(0))
    assert _admit(stranger, bytes(SECRET_BYTES)) is None
    assert len(parts) <= rendezvous.ADMIT_S + 1
    assert parts[-1] == 0  # closed


def test_why_ranks_cannot_reach_each_other_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm ended the process in the same second, without a word."""
    assert min(rendezvous.LOCAL_ENTER_S, rendezvous.ENTER_S) - 10 > rendezvous.ACCEPT_S

    def fail(**_: Any) -> None:
        raise RuntimeError("duplicate GPU")

    monkeypatch.setattr(rendezvous, "ACCEPT_S", -1.0)
    monkeypatch.setattr(mx.distributed, "init", fail)
    with pytest.raises(RankError, match="over ring: duplicate GPU"):
        enter_group(RankHosts("ring", "127.0.0.1", 2))


def test_ranks_that_do_not_meet_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process was left with the variables of rank 0, and the others' processes ran on."""
    ended: list[str] = []

    class Started:
        def __init__(self, environment: dict[str, str]) -> None:
            self.rank = environment["MLX_RANK"]

        def wait_ready(self) -> None:
            pass

        def __enter__(self) -> "Started":
            return self

        def __exit__(self, *_: object) -> None:
            ended.append(self.rank)

    def fail(hosts: RankHosts) -> None:
        assert os.environ["MLX_RANK"] == "0"
        raise MemoryError

    hosts = RankHosts("ring", "127.0.0.1", 3)
    monkeypatch.setattr(rank_team, "find_hosts", lambda *_: hosts)
    monkeypatch.setattr(rank_team, "RankProcess", Started)
    monkeypatch.setattr(rank_team, "enter_group", fail)
    before = dict(os.environ)
    with pytest.raises(MemoryError):
        find_team("hosts.json")
    assert sorted(ended) == ["1", "2"]
    assert dict(os.environ) == before


@pytest.fixture
def linked() -> Iterator[tuple[RankTeam, Link]]:
    """A team of two ranks, and rank 1's end of their connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = Link(socket.create_connection(listener.getsockname()))
        link = Link(listener.accept()[0])
    yield RankTeam(None, [link], []), other
    other.close()
    link.close()


def test_the_reason_of_a_rank_that_gives_up_is_told_once_and_again(
    linked: tuple[RankTeam, Link],
) -> None:
    """The connection that closed behind it ended this process before anybody had read the reason."""
    team, other = linked
    team.begin({"do": "sample"})
    other.receive()
    other.send(FrameKind.FAILURE, b"damaged weights")
    other.close()
    with pytest.raises(RankError, match="rank 1: damaged weights"):
        team.answers()
    with pytest.raises(RankError, match="rank 1: damaged weights"):
        team.begin({"do": "sample"})


def test_a_question_that_fails_here_leaves_no_answers_to_the_next(linked: tuple[RankTeam, Link]) -> None:
    team, other = linked

    def fail() -> None:
        raise OSError("no such file")

    for number in (1, 2):
        other.tell({"number": number})
    with pytest.raises(OSError, match="no such file"):
        team.ask({"do": "sample"}, fail)
    assert team.ask({"do": "sample"}, lambda: 7) == (7, [{"number": 2}])
    team.begin({"do": "sample"})
    other.send(FrameKind.FAILURE, b"the test has ended")
    with pytest.raises(RankError, match="has ended"):
        team.answers()


def test_a_ring_file_that_cannot_be_read_ends_a_rank_with_a_word() -> None:
    """Its interpreter was shut down beside a thread that reads the standard input, which is fatal."""
    ring = {"MLX_RANK": "1", "MLX_HOSTFILE": "none.json"}
    command = [sys.executable, "-P", "-m", "pensieve.engine.follower", "1", "info"]
    with subprocess.Popen(
        command, env=os.environ | ring, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == FAILED_STATUS
    assert "MLX_HOSTFILE none.json cannot be read" in said
