"""Reads, without a parser, the heads of requests that are plain enough to be refused by their heads alone."""

import re
from typing import NamedTuple

from ..middleware import MAX_BODY_BYTES
from ..queue_gate import GENERATING_PATHS

REQUEST_LINE = re.compile(rb"POST ([!->@-~]+)(?:\?[!-~]*)? HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,8})\r\n")
ODD_FIELDS = (b"\r\ntransfer-encoding", b"\r\norigin:", b"\r\nexpect:", b"\r\nupgrade:")
"""Fields of requests that only the whole server may judge."""


class PlainHead(NamedTuple):
    """The head of a request that would generate. num_missing: bytes of its body that have not come."""

    path: str
    num_missing: int
    closes: bool  # the client wants the connection to be closed


def read_plain_head(data: bytes) -> PlainHead | None:
    """Read the head with which `data` begins.

    Returns None where it is not whole, or is not one that every reader would understand in the same way, or
    more than its body follows: another request may.
    """
    found = REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if found is None or end < 0 or (path := found[1].decode()) not in GENERATING_PATHS:
        return None
    head = data[: end + 2].lower()
    lengths = LENGTH.findall(head)
    is_odd = head.count(b"\n") != head.count(b"\r\n") or any(field in head for field in ODD_FIELDS)
    if is_odd or len(lengths) != 1 or head.count(b"content-length") != 1:
        return None
    num_missing = int(lengths[0]) - (len(data) - end - 4)
    if num_missing < 0 or int(lengths[0]) > MAX_BODY_BYTES:
        return None
    return PlainHead(path, num_missing, b"\r\nconnection: close\r\n" in head)
