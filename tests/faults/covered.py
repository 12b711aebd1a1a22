"""Numbers of the list that tests elsewhere hold up already, with those tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Covered:
    """A number, or a part of one, whose tests stand elsewhere.

    tests: `file` or `file::test`, from tests/; each is run whole, with all of its cases.
    """

    number: int
    tried: str
    asked: str
    tests: tuple[str, ...]


COVERED = (
    Covered(
        2,
        "every field of a request with odd values",
        "read or refused as bad; never a fault of the server",
        ("api/test_odd_bodies.py",),
    ),
    Covered(
        4,
        "bodies of very many values, chunks of a byte",
        "refused unread",
        ("api/test_body.py", "api/command/test_bounded_protocol.py::test_chunks_of_a_byte_are_not_read"),
    ),
    Covered(
        9,
        "what is no HTTP, and bodies of two lengths",
        "an answer in JSON, and nothing behind it is read",
        ("api/command/test_bounded_protocol.py",),
    ),
    Covered(
        10,
        "any tokens in any pieces as a stream",
        "the text of the whole answer; replacement characters for bytes alone that are no text",
        ("api/output/test_equivalence.py",),
    ),
    Covered(
        13,
        "a client leaves without having asked for a stream",
        "its sequence ends within a step",
        ("api/test_messages.py", "e2e/test_server.py::test_disconnects_leave_nothing_behind"),
    ),
    Covered(
        14,
        "a client that does not read on",
        "cut off",
        ("api/command/test_bounded_protocol.py::test_who_does_not_read_on_is_cut_off",),
    ),
    Covered(
        16,
        "connections with half a request",
        "closed",
        ("api/command/test_bounded_protocol.py::test_half_a_request_is_not_waited_for",),
    ),
    Covered(
        19,
        "requests beyond the queue's room",
        "refused by their heads, each told when to come back",
        ("api/test_queue_gate.py",),
    ),
    Covered(
        20,
        "requests that have waited too long",
        "told so; those that run go on",
        ("scheduler/test_refused_waits.py",),
    ),
    Covered(
        25,
        "steps that fail beside other sequences",
        "the culprit alone ends",
        ("scheduler/test_recovery.py",),
    ),
)
