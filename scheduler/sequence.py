"""A request, its state, and what a step brings to it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from ..cache.blocks import BLOCK_SIZE, BlockTable
from ..cache.radix import TreePosition
from ..engine.step import SamplingParams, TokenLogprobs
from .constraint import Constraint

FinishReason = Literal["stop", "length", "abort", "error"]


class SequenceStatus(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for: continue `prompt` until a stop token or `max_tokens`.

    prompt: token ids, at least one, each below the vocabulary's size.
    session: groups the requests of one client session; None for a lone request.
    constraint: what the sampled tokens must conform to. It is told of each of them, so no two requests share
    one; None lets the model write what it will.
    request_id: names the request in log lines, as the API's does in its answer.
    """

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    session: str | None = None
    constraint: Constraint | None = None
    request_id: str = ""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. No prefill or decode phase exists: `num_computed` catches up with the tokens.

        tokens:   |------- prompt -------|-- sampled, known --|-- pending --|
        KV:       |== settled ==|== computed in steps queued =|

    Source of the view: vLLM v1's scheduler.
    """

    seq_id: int
    request: Request
    max_length: int  # tokens that it may come to, its prompt included
    tokens: list[int] = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    table: BlockTable = field(default_factory=BlockTable)
    num_computed: int = 0  # tokens whose KV is written, or will be by a step that is queued
    num_committed: int = 0  # tokens whose KV is written by a step that has ended well
    num_pending: int = 0  # tokens that queued steps sample, not yet known here
    first_step: int = 0  # the step it was planned in after its last admission; KV of older ones is void
    first_sample: int = 0  # samples of older steps are void: they follow a token that was refused
    num_cached: int | None = None  # prompt tokens found in the prefix tree at the first admission
    prefix_wait: "PrefixWait | None" = None
    num_refused: int | None = None  # blocks that were to be had when it was last refused for want of them
    tree_position: TreePosition | None = None  # how far its blocks are in the prefix tree

    def __post_init__(self) -> None:
        assert self.request.prompt, "a prompt has at least one token"
        self.tokens = list(self.request.prompt)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def num_to_prefill(self) -> int:
        """Tokens to compute before the next one can be sampled; the last known token is left to decode."""
        return max(0, len(self.tokens) - 1 - self.num_computed)

    @property
    def is_prefilling(self) -> bool:
        """Whether there are any."""
        return len(self.tokens) - 1 > self.num_computed


@dataclass(frozen=True, slots=True)
class PrefixWait:
    """A waiting sequence leaves the first `num_tokens` of its prompt to `producer`, running now."""

    producer: Sequence
    num_tokens: int

    @property
    def is_over(self) -> bool:
        """Whether the shared part is in the tree, or will not come."""
        return (
            self.producer.status is not SequenceStatus.RUNNING
            or self.producer.num_committed >= self.num_tokens
        )


@dataclass(slots=True)
class Progress:
    """What one step brought to one sequence."""

    sequence: Sequence
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # of the tokens, where they were asked for


def shared_prefix(a: list[int], b: list[int], num_known: int) -> int:
    """Full blocks that `a` and `b` share and that neither has last, in tokens; 0 if no more than `num_known`.

    The last token of a prompt is left to decode, so a block that it fills comes later than the others.
    num_known: a multiple of the block size; most pairs that differ do so right behind it.
    """
    low, high = num_known // BLOCK_SIZE, (min(len(a), len(b)) - 1) // BLOCK_SIZE
    next_block = slice(num_known, num_known + BLOCK_SIZE)
    if high <= low or a[next_block] != b[next_block] or a[:num_known] != b[:num_known]:
        return 0
    while low < high:  # by bisection: comparing slices is fast, a loop over tokens is not
        middle = (low + high + 1) // 2
        if a[low * BLOCK_SIZE : middle * BLOCK_SIZE] == b[low * BLOCK_SIZE : middle * BLOCK_SIZE]:
            low = middle
        else:
            high = middle - 1
    return low * BLOCK_SIZE
