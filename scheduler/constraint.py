"""What a request's tokens must conform to, as the scheduler sees it. It knows no grammar and no text."""

from collections.abc import Sequence
from typing import Protocol


class Constraint(Protocol):
    """The state of one request's answer: `accept()` is called for each sampled token, in order.

    A step may be planned before the token of the step before is known, and so before its mask is: then the
    token is sampled without one, and thrown away if it is not accepted. Tokens that were accepted stay, also
    when their sequence is preempted or its step fails.
    """

    def mask(self) -> bytes | None:
        """Return a bit for each token that may come next, lowest first; None while every token may."""

    def accept(self, token: int) -> bool:
        """Take the next token. False when it may not come; it will be sampled again, with a mask."""

    def resumed(self, tokens: Sequence[int]) -> "Constraint":
        """Make the constraint of a request that goes on with an answer that begins with `tokens`."""
