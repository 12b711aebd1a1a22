"""The states that one sequence holds."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..cache.state_store import KeptState

Purpose = Literal["row", "checkpoint", "reply"]
"""What a state is held for, see HeldState."""

MAX_PENDING = 1
"""Most steps by which a sequence with states is planned ahead of its last known token."""

MAX_PROMISED = 2 + MAX_PENDING
"""Most slots that a sequence is promised."""


class HeldState(NamedTuple):
    """The state after the first `num_tokens` tokens of a sequence, which the sequence holds.

    purpose: "row" for the sequence's next tokens only; the prefix tree wants a "checkpoint" as soon as the KV
    of its tokens is committed, and the last "reply" when the sequence ends.
    """

    num_tokens: int
    slot: int | None  # see KeptState
    purpose: Purpose
    window: tuple[int, ...] = ()  # see KeptState; none where the purpose is "row"

    @property
    def state(self) -> KeptState:
        """What is held."""
        return KeptState(self.slot, self.window)


@dataclass(slots=True)
class SequenceStates:
    """The states that a sequence holds. For a model that keeps all in KV, all lists stay empty.

    chain: states that a row or slice may still read, oldest first; where there are recurrent states, the last
    one is that of all computed tokens.
    spare: older states that are kept for the prefix tree alone, and dropped where slots run short.
    places: lengths of prefixes, all above the computed one, at which the tree wants a checkpoint; sorted.
    num_within: how many of these places the next slice may pass, each of which takes a state slot; it must
    end at the one after them. None: as many as there are, as for windows.
    last_checkpoint: length of the longest prefix for which the sequence has found or left a checkpoint.
    """

    chain: list[HeldState] = field(default_factory=list)
    spare: list[HeldState] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    last_checkpoint: int = 0
    num_within: int | None = None

    @property
    def all(self) -> list[HeldState]:
        """Every held state, oldest first."""
        return [*self.spare, *self.chain]


def slots_needed(is_constrained: bool) -> int:
    """Return the slots without which a sequence cannot go on: the state that a row reads, and the next one.

    is_constrained: whether samples may be refused; the state before the one planned ahead is needed then.
    """
    return MAX_PROMISED if is_constrained else MAX_PROMISED - MAX_PENDING
