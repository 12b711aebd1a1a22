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
        13,
        "a client leaves without having asked for a stream",
        "its sequence ends within a step",
        ("api/test_messages.py", "e2e/test_server.py::test_disconnects_leave_nothing_behind"),
    ),
)
