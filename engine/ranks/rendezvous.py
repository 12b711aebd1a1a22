"""Rank 0 and the others find each other: first in MLX's group, then by a connection from each to rank 0.

MLX's group needs every rank in every call and has no time limits, so that plans go over connections of their
own: an idle rank waits in a read, and a lost one is noticed. Where rank 0 listens, and a secret that lets in
the group's ranks alone, is told over the group.
"""

import hmac
import secrets
import signal
import socket
import struct
import time
from typing import Any

import mlx.core as mx

from .rank_hosts import RankHosts
from .rank_link import Link, RankError

SECRET_BYTES = 32
NOTE_BYTES = 256
"""Size of what rank 0 tells over the group: a secret, then `address port` as text, padded with zeros."""

RANK = struct.Struct("!I")

ACCEPT_S = 60.0
"""Seconds in which all ranks must have connected, once they are in MLX's group."""

ENTER_S = 150.0
"""Seconds after which a process that is still waiting in MLX's group ends."""

LOCAL_ENTER_S = 90.0
"""The same where all ranks are started here, and are known to be ready: later than the reason is told."""

ADMIT_S = 2.0
"""Seconds in which a connection must have told the whole secret; others wait meanwhile."""

PAUSE_S = 0.5
"""Seconds between two trials to enter MLX's group."""

Group = Any
"""MLX's group of ranks."""


def enter_group(hosts: RankHosts) -> Group:
    """Enter MLX's group, whose variables the environment has; waits for the other ranks. Raises RankError.

    MLX gives up after a few seconds where a rank does not listen yet, which a busy machine still imports, but
    waits for ever for one that does not connect. It holds the interpreter's lock meanwhile, so that no thread
    can end this process with its parent: the alarm does, whose signal no Python handles.
    """
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LOCAL_ENTER_S if hosts.num_local else ENTER_S)
    try:
        return _enter(hosts)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _enter(hosts: RankHosts) -> Group:
    until_s = time.monotonic() + ACCEPT_S
    while True:
        try:
            return mx.distributed.init(strict=True, backend=hosts.backend)
        except (RuntimeError, ValueError) as error:
            if time.monotonic() > until_s:
                why = f"the ranks cannot reach each other over {hosts.backend}: {error}"
                raise RankError(why) from error
        time.sleep(PAUSE_S)


def accept_ranks(group: Group, hosts: RankHosts) -> list[Link]:
    """Accept the connections of all other ranks; return them in the ranks' order. For rank 0.

    Raises RankError.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    found: dict[int, Link] = {}
    try:
        family = socket.getaddrinfo(hosts.address, None, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((hosts.address, 0), family=family) as listener:
            until_s = time.monotonic() + ACCEPT_S
            note = secret + f"{hosts.address} {listener.getsockname()[1]}".encode()
            _share(group, note.ljust(NOTE_BYTES, b"\0"))
            while len(found) < group.size() - 1:
                listener.settimeout(max(0.01, until_s - time.monotonic()))
                connection, _ = listener.accept()
                rank = _admit(connection, secret)
                if rank is not None and 0 < rank < group.size():
                    found[rank] = Link(connection)
    except OSError as error:
        for link in found.values():
            link.close()
        missing = sorted(set(range(1, group.size())) - set(found))
        raise RankError(f"ranks {missing} have not connected to {hosts.address}: {error}") from error
    return [found[rank] for rank in sorted(found)]


def _admit(connection: socket.socket, secret: bytes) -> int | None:
    """Return the rank of a connection that knows the secret; close any other."""
    until_s, data = time.monotonic() + ADMIT_S, b""
    try:
        while len(data) < SECRET_BYTES + RANK.size and (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            part = connection.recv(SECRET_BYTES + RANK.size - len(data))
            if not part:
                break
            data += part
    except OSError:
        data = b""
    if len(data) == SECRET_BYTES + RANK.size and hmac.compare_digest(data[:SECRET_BYTES], secret):
        (rank,) = RANK.unpack(data[SECRET_BYTES:])
        return int(rank)
    connection.close()
    return None


def connect(group: Group) -> Link:
    """Connect to rank 0. For the other ranks. Raises RankError."""
    note = _share(group, bytes(NOTE_BYTES))
    secret, place = note[:SECRET_BYTES], note[SECRET_BYTES:].rstrip(b"\0").decode()
    host, _, port = place.rpartition(" ")
    try:
        connection = socket.create_connection((host, int(port)), timeout=ACCEPT_S)
        connection.sendall(secret + RANK.pack(group.rank()))
    except (OSError, ValueError) as error:
        raise RankError(f"rank 0 cannot be reached at {place}: {error}") from error
    return Link(connection)


def _share(group: Group, note: bytes) -> bytes:
    """Return rank 0's note: the sum of all ranks' notes, of which the others are zeros."""
    summed = mx.distributed.all_sum(mx.array(list(note), mx.int32), group=group)
    numbers: Any = summed.tolist()
    return bytes(numbers)
