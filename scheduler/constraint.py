"""What a request's tokens must conform to, as the scheduler sees it. It knows no grammar and no text."""

import logging
from collections import abc
from typing import Protocol

logger = logging.getLogger(__name__)


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

    def resumed(self, tokens: abc.Sequence[int]) -> "Constraint":
        """Make the constraint of a request that goes on with an answer that begins with `tokens`."""


class ConstraintFailed(Exception):
    """A constraint raised, or leaves no token that it would accept: sampling again would never end."""


def allowed_tokens(constraint: Constraint | None) -> bytes | None:
    """The mask for the next token. A constraint that raises allows nothing, which `is_accepted` ends."""
    try:
        return None if constraint is None else constraint.mask()
    except Exception:  # one request's grammar must not end the others
        logger.exception("a constraint failed to tell what may come next")
        return b""


def is_accepted(constraint: Constraint | None, token: int, allowed: bytes | None) -> bool:
    """Hand a sampled token to the constraint. allowed: the mask that it was sampled with, if any.

    Raises ConstraintFailed.
    """
    if constraint is None:
        return True
    if allowed is not None and not (token < 8 * len(allowed) and allowed[token // 8] >> token % 8 & 1):
        raise ConstraintFailed("no token is allowed")
    try:
        accepted = constraint.accept(token)
        can_go_on = accepted or (allowed is None and constraint.mask() is not None)
    except Exception as error:
        raise ConstraintFailed(f"the constraint raised {error!r}") from error
    if not can_go_on:
        raise ConstraintFailed("a token is refused that was, or again would be, allowed")
    return accepted
