"""A request, the sequence that answers it, and the progress that one step makes with the sequence."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from ..cache.blocks import BLOCK_SIZE, BlockTable, WindowTable
from ..cache.tree_nodes import TreePosition
from ..engine.step import SamplingParams, TokenLogprobs
from .constraint import Constraint
from .fair_share import FairShare
from .origin import Origin, WorkClass
from .seen_tokens import SeenTokens
from .sequence_states import SequenceStates
from .session_tree import KnownThread

FinishReason = Literal["stop", "length", "abort", "error"]


class SequenceStatus(Enum):
    """Where a sequence is: in the queue, in the batch, or done."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Request:
    """A caller's request: continue `prompt` until a stop token or `max_tokens`.

    prompt: token ids, at least one, each below the vocabulary's size.
    origin: who sends it and why, as far as the client says so.
    constraint: decides which tokens may be sampled; None allows every token. A constraint holds the state of
    one answer, so no two requests share it.
    request_id: the API's id of the request, for log lines.
    checkpoints: lengths, in tokens, of prefixes of `prompt` at which other prompts are likely to go on
    differently: models that keep states keep one there.
    num_answered: tokens at the end of `prompt` that are the beginning of the answer.
    """

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    origin: Origin = field(default_factory=Origin)
    constraint: Constraint | None = None
    request_id: str = ""
    checkpoints: tuple[int, ...] = ()
    num_answered: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's tokens and blocks. It has no prefill or decode phase: its KV catches up with its tokens.

        tokens:   |------- prompt -------|-- sampled, known --|-- pending --|
        KV:       |== committed ==|== computed in queued steps ==|

    Source of the view: vLLM v1's scheduler.
    """

    seq_id: int
    request: Request
    max_length: int  # tokens at which it ends, the prompt included
    tokens: list[int] = field(init=False)
    work_class: WorkClass = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    block_table: BlockTable = field(default_factory=BlockTable)
    window_table: WindowTable = field(default_factory=WindowTable)  # of layers that see a window only
    states: SequenceStates = field(default_factory=SequenceStates)
    num_computed_tokens: int = 0  # tokens whose KV is written, or will be by a queued step
    num_committed_tokens: int = 0  # tokens whose KV is written by a step that has ended well
    num_pending_tokens: int = 0  # tokens that queued steps sample, not yet known here
    fair_share: FairShare = field(init=False)  # of its session
    arrival_device_s: float = 0.0  # the device's time so far, when it arrived
    arrival_step: int = 0  # the first step that could have admitted it
    first_kv_step: int = 0  # the step that last admitted it; KV that earlier steps wrote is void
    first_sample_step: int = 0  # samples of earlier steps are void: they follow a refused token
    num_cached_tokens: int | None = None  # prompt tokens found in the prefix tree at the first admission
    num_disk_tokens: int = 0  # of these, tokens whose KV was read from disk for this sequence or its twin
    is_searched: bool = False  # whether its prompt was looked up on disk
    prefix_wait: "Wait | None" = None
    num_available_at_refusal: int | None = None  # available blocks, when they last were too few
    is_wary: bool = False  # whether it starts only where its blocks can be freed: available ones could not
    seen: SeenTokens | None = None  # None where the request adjusts no logits
    conversation: KnownThread | None = None  # whose prompt it is
    tree_position: TreePosition | None = None  # where its cached or committed prefix ends in the prefix tree

    def __post_init__(self) -> None:
        assert self.request.prompt, "a prompt has at least one token"
        self.tokens = list(self.request.prompt)
        request = self.request
        self.work_class = request.origin.work_class
        if request.sampling.adjusts:
            before = request.prompt[: len(request.prompt) - request.num_answered]
            self.seen = SeenTokens(request.sampling, before, request.stop_token_ids)

    def __str__(self) -> str:
        request_id = self.request.request_id
        return f"sequence {self.seq_id} ({request_id})" if request_id else f"sequence {self.seq_id}"

    @property
    def space(self) -> bytes:
        """In which part of the cache its prefixes are, see Account."""
        return self.request.origin.account.space

    @property
    def num_prompt_tokens(self) -> int:
        """The prompt's length."""
        return len(self.request.prompt)

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled; the last known token is left to decode."""
        return max(0, len(self.tokens) - 1 - self.num_computed_tokens)

    @property
    def is_prefilling(self) -> bool:
        """Whether `num_prefill_tokens` is above 0."""
        return len(self.tokens) - 1 > self.num_computed_tokens

    @property
    def num_slice_tokens(self) -> int:
        """Tokens that the next slice may have: where slots are short, it ends where a state is wanted."""
        places, num_within = self.states.places, self.states.num_within
        if num_within is not None and num_within < len(places):
            return places[num_within] - self.num_computed_tokens
        return self.num_prefill_tokens

    def position_at(self, num_tokens: int) -> TreePosition | None:
        """Return where the prefix of `num_tokens`, full blocks, ends in the tree; None if that is unknown."""
        known, num_blocks = self.tree_position, num_tokens // BLOCK_SIZE
        if known is None or known.node.parent is None or known.num_blocks < num_blocks:
            return None
        return known.prefix(num_blocks)


class Wait(Protocol):
    """What a waiting sequence waits for before it may start."""

    @property
    def is_over(self) -> bool:
        """Whether the sequence need not wait any longer."""

    @property
    def position(self) -> TreePosition | None:
        """Where the prefix that the sequence has waited for ends in the prefix tree, if that is known."""


@dataclass(frozen=True, slots=True)
class PrefixWait:
    """A waiting sequence's wait for `producer`, a running one, to compute `num_tokens` that they share."""

    producer: Sequence
    num_tokens: int

    @property
    def is_over(self) -> bool:
        """Whether the producer has committed the shared prefix, or no longer runs."""
        return (
            self.producer.status is not SequenceStatus.RUNNING
            or self.producer.num_committed_tokens >= self.num_tokens
        )

    @property
    def position(self) -> TreePosition | None:
        """Where the shared prefix ends in the prefix tree; None where the producer does not know it."""
        return self.producer.position_at(self.num_tokens)


@dataclass(slots=True)
class Progress:
    """The tokens that one step added to one sequence."""

    sequence: Sequence
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # of `tokens`, if the request asks for them


def shared_prefix_length(a: list[int], b: list[int], num_known: int) -> int:
    """Return the length in tokens of the full blocks that `a` and `b` share; 0 if it is at most `num_known`.

    A sequence's last token does not count: it is left to decode, so that a block that it fills is cached
    later than the blocks before it.
    num_known: tokens, a multiple of the block size. The block after them is compared first: most pairs differ
    there.
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
