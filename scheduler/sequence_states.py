"""The recurrent states that one sequence holds."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class HeldState(NamedTuple):
    """The state after the first `num_tokens` tokens of a sequence, in a state slot that the sequence holds.

    purpose: "row" for the sequence's next tokens only; the prefix tree wants a "checkpoint" as soon as the KV
    of its tokens is committed, and the last "reply" when the sequence ends.
    """

    num_tokens: int
    slot: int
    purpose: Literal["row", "checkpoint", "reply"]


@dataclass(slots=True)
class SequenceStates:
    """The states that a sequence holds. Without a model with recurrent states, all lists stay empty.

    chain: states that a row or slice may still read, oldest first; the last one is that of all computed
    tokens.
    spare: older states that are kept for the prefix tree alone, and dropped where slots run short.
    places: lengths of prefixes, all above the computed one, at which the tree wants a checkpoint; sorted.
    last_checkpoint: length of the longest prefix for which the sequence has found or left a checkpoint.
    """

    chain: list[HeldState] = field(default_factory=list)
    spare: list[HeldState] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    last_checkpoint: int = 0

    @property
    def all(self) -> list[HeldState]:
        """Every held state, oldest first."""
        return [*self.spare, *self.chain]
