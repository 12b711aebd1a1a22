"""Ranks find each other, whoever else knocks."""

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pensieve.engine.ranks import rendezvous
from pensieve.engine.ranks.rank_hosts import RankHosts
from pensieve.engine.ranks.rank_link import FrameKind
from pensieve.engine.ranks.rendezvous import RANK, SECRET_BYTES, accept_ranks


def test_only_who_knows_the_secret_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing once kept the ranks waiting for a minute."""
    monkeypatch.setattr(rendezvous, "ADMIT_S", 0.05)
    sockets: list[socket.socket] = []

    def knock(group: Any, note: bytes) -> bytes:
        """Connect as a stranger, as one who guesses, and as rank 1, in this order."""
        host, port = note[SECRET_BYTES:].rstrip(b"\0").decode().split()
        for said in (b"", bytes(SECRET_BYTES) + RANK.pack(1), note[:SECRET_BYTES] + RANK.pack(1)):
            sockets.append(socket.create_connection((host, int(port))))
            sockets[-1].sendall(said)
        return note

    monkeypatch.setattr(rendezvous, "_share", knock)
    [link] = accept_ranks(SimpleNamespace(size=lambda: 2), RankHosts("ring", "127.0.0.1"))
    threading.Thread(target=link.send, args=(FrameKind.BEAT,)).start()
    assert sockets[2].recv(1) == bytes([FrameKind.BEAT])
    assert sockets[0].recv(1) == sockets[1].recv(1) == b""  # closed
    for each in (*sockets, link._socket):
        each.close()
