"""The constraint on a request's tokens, as the scheduler sees it: it knows no grammar and no text."""

import logging
from collections import abc
from typing import Protocol

logger = logging.getLogger(__name__)


class Constraint(Protocol):
    """The state of one request's answer. The scheduler calls `accept()` for each sampled token, in order.

    A step may be planned before the previous step's token, and so the mask for its own token, is known: its
    token is then sampled without a mask, and thrown away if the constraint does not accept it. An accepted
    token is never taken back, not even when its sequence is preempted or a later step fails.
    """

    def mask(self) -> bytes | None:
        """Return a bit for each token, lowest first, set if it may come next; None while every token may."""

    def accept(self, token: int) -> bool:
        """Take the next token. Returns False when it may not come; another is then sampled, with a mask."""

    def resumed(self, tokens: abc.Sequence[int]) -> "Constraint":
        """Return the constraint of a request that continues an answer that begins with `tokens`."""


class ConstraintFailed(Exception):
    """A constraint raised, or accepts no token at all: sampling again would never end."""


def allowed_tokens(constraint: Constraint | None) -> bytes | None:
    """Return the mask for the next token. If `mask()` raises, none is allowed, and `is_accepted` raises."""
    try:
        return None if constraint is None else constraint.mask()
    except Exception:  # one request's grammar must not end the others
        logger.exception("a constraint failed to tell what may come next")
        return b""


def is_accepted(constraint: Constraint | None, token: int, allowed: bytes | None) -> bool:
    """Hand a sampled token to the constraint and return whether it accepts the token.

    allowed: the mask that the token was sampled with, None for none.
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
