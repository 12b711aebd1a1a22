"""The values that cross between the scheduler and the engine's process: plain Python, no arrays.

The scheduler makes a StepPlan; the engine computes it and answers with a StepResult. `Engine` is the
interface by which the scheduler's loop drives the engine, and the only border between the two.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ..cache.disk.orders import ReadOrder, ReadOutcome, WriteOrder, WriteOutcome
from .hang_watch import EngineState

SlotRange = tuple[int, int]
"""A contiguous range of KV slots, `(first, end)`. A sequence's slots are a few of them, in token order."""

StepKind = Literal["decode", "prefill", "mixed", "transfer"]
"""What a step feeds to the model: decode rows, slices of prompts, both; nothing beside saves and restores."""

MAX_LOGPROBS = 20
"""Likeliest tokens that a request may ask for at each position."""

NOT_A_NUMBER = -1
"""Stands for a token where a row's logits held NaN: the model or its KV is broken for that sequence."""


class FastPickle:
    """Base of slotted dataclasses that are pickled as a call of their class.

    That takes a third of the time that pickle needs for a slotted dataclass otherwise.
    """

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[type["FastPickle"], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class SamplingParams(FastPickle):
    """How one sequence's next token is chosen. `temperature` 0 is exact greedy decoding.

    Raises ValueError for a value that would make the distribution meaningless: MLX takes NaN and negative
    values without an error, and one such row would spoil the other rows of its batch.
    """

    temperature: float = 0.0
    top_p: float = 1.0  # keep the smallest set of tokens whose probability reaches this; 1 keeps all
    top_k: int = 0  # keep the k likeliest tokens, and on a GPU those as likely as the last one; 0 keeps all
    min_p: float = 0.0  # drop tokens less likely than this share of the likeliest
    seed: int = 0  # same seed, same prompt: same tokens, in any batch
    repetition_penalty: float = 1.0  # divides the logits of tokens in prompt and answer; 1 changes none
    frequency_penalty: float = 0.0  # taken off a token's logit for each time that the answer holds it
    presence_penalty: float = 0.0  # taken off the logits of tokens that the answer holds
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    min_tokens: int = 0  # length below which no stop token is sampled
    logprobs: int | None = None  # report each token's log-probability, and those of so many likeliest tokens

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken; logits divided by a smaller temperature would overflow."""
        return self.temperature < 1e-5

    @property
    def penalises(self) -> bool:
        """Whether tokens that prompt or answer hold are less likely."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def adjusts(self) -> bool:
        """Whether logits may be changed before a token is chosen."""
        return self.penalises or bool(self.logit_bias) or self.min_tokens > 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 100.0):
            raise ValueError("temperature must lie between 0 and 100")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError("top_p must be above 0 and at most 1")
        if not 0 <= self.top_k < 2**31:
            raise ValueError("top_k must be 0 or more")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError("min_p must lie between 0 and 1")
        if not 0.01 <= self.repetition_penalty <= 100.0:
            raise ValueError("repetition_penalty must lie between 0.01 and 100")
        if not (abs(self.frequency_penalty) <= 100.0 and abs(self.presence_penalty) <= 100.0):
            raise ValueError("frequency_penalty and presence_penalty must lie between -100 and 100")
        if not all(token >= 0 and abs(bias) <= 1000.0 for token, bias in self.logit_bias):
            raise ValueError("logit_bias must name tokens, with biases between -1000 and 1000")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ValueError(f"logprobs must lie between 0 and {MAX_LOGPROBS}")
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be an unsigned 64-bit integer")


class Adjustment(NamedTuple):
    """What changes one row's logits, beside its sampling parameters. Bytes hold 32-bit integers."""

    tokens: bytes = b""  # that the answer holds, each once; a pending one is not among them
    counts: bytes = b""  # how often it holds each of `tokens`
    prompt: bytes = b""  # tokens of the prompt, each once; empty without a repetition penalty
    forbidden: tuple[int, ...] = ()  # tokens that must not be sampled, unless no other is allowed


class StateSlots(NamedTuple):
    """Where a sequence's recurrent state is read before some of its tokens are computed, and kept after them.

    No two of the slots are the same: the state before the tokens stays as it is, so that it can be read
    again, as a checkpoint of the prefix tree or after a refused sample.
    """

    before: int | None  # None: the tokens are the sequence's first ones
    after: int
    within: tuple[tuple[int, int], ...] = ()  # (tokens, slot) of a slice's states before its end, in order

    def kept(self, num_tokens: int) -> dict[int, int]:
        """Return all slots that a slice of `num_tokens` writes, by its tokens up to there, in order."""
        return dict([*self.within, (num_tokens, self.after)])


class DecodeRow(NamedTuple):
    """One sequence's part of a decode batch: feed `token` at `position`, sample the token after it.

    A tuple, because every step makes one for each sequence: a frozen dataclass takes three times as long.
    """

    seq_id: int
    token: int | None  # None: the token that this sequence's previous step samples, still on the device
    position: int
    slot_ranges: tuple[SlotRange, ...]  # slots of positions 0 to position, in order; the last one is written
    sampling: SamplingParams
    allowed: bytes | None = None  # a bit for each token that may follow, lowest first; None allows all
    state: StateSlots | None = None  # None for models without recurrent states
    adjustment: Adjustment | None = None  # None where the model's own logits are sampled
    window_ranges: tuple[SlotRange, ...] = ()  # see PrefillChunk


@dataclass(frozen=True, slots=True)
class PrefillChunk(FastPickle):
    """A slice of a prompt whose KV is to be computed; nothing is sampled from it.

    slot_ranges: slots of positions 0 to start + len(tokens) - 1; the last len(tokens) slots are written.
    window_ranges: the same in the pools of layers that see a window only, where these forget what lies before
    it: slots of the newest positions, beginning with a block. Empty where all layers keep all tokens.
    """

    seq_id: int
    tokens: list[int]
    start: int  # position of tokens[0]
    slot_ranges: tuple[SlotRange, ...]
    state: StateSlots | None = None  # None for models without recurrent states
    window_ranges: tuple[SlotRange, ...] = ()


NO_BLOCK = -1
"""Stands for a block of a file whose KV is not restored."""


class SaveOrder(NamedTuple):
    """A file to write: what lies in some blocks and state slots when a step begins."""

    write: WriteOrder
    blocks: tuple[int, ...] = ()  # KV blocks in token order
    state_slot: int | None = None  # of a recurrent state
    window: tuple[int, ...] = ()  # blocks of layers that see a window only, in token order


class RestoreOrder(NamedTuple):
    """A file to read into blocks and state slots, which nobody else uses before the outcome is known.

    blocks: one for each of the file's blocks; NO_BLOCK stands for one that is not wanted.
    """

    read: ReadOrder
    blocks: tuple[int, ...] = ()
    state_slot: int | None = None
    window: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan(FastPickle):
    """All that one step computes: the decode batch, then prefill chunks.

    saves: their blocks and states are copied before anything of the step is computed, and written later.
    restores: their files are read; the pools have the contents once a step's result says so.
    abandons: paths of files that an earlier plan restores, and that are waited for no more unless read.
    expected_s: the step's predicted time in seconds; None where no step like it has been computed yet.
    """

    step_id: int
    decode: list[DecodeRow] = field(default_factory=list)
    prefill: list[PrefillChunk] = field(default_factory=list)
    saves: list[SaveOrder] = field(default_factory=list)
    restores: list[RestoreOrder] = field(default_factory=list)
    abandons: list[str] = field(default_factory=list)
    expected_s: float | None = None

    @property
    def seq_ids(self) -> list[int]:
        """Ids of the sequences that the step computes: decoding ones, then prefilling ones."""
        return [row.seq_id for row in self.decode] + [chunk.seq_id for chunk in self.prefill]

    @property
    def num_tokens(self) -> int:
        """Tokens that the step feeds to the model."""
        return len(self.decode) + sum(len(chunk.tokens) for chunk in self.prefill)

    @property
    def kind(self) -> StepKind:
        """What the step feeds to the model."""
        if self.decode:
            return "mixed" if self.prefill else "decode"
        return "prefill" if self.prefill else "transfer"


@dataclass(frozen=True, slots=True)
class TokenLogprobs(FastPickle):
    """A sampled token's log-probability, and the likeliest tokens at its position with theirs.

    All are the model's own: before temperature, filters and masks.
    """

    logprob: float
    top: list[tuple[int, float]]  # (token, log-probability), the likeliest first


@dataclass(frozen=True, slots=True)
class StepResult(FastPickle):
    """The tokens that a step sampled, and what became of orders: each ends, or the engine is lost."""

    step_id: int
    tokens: dict[int, int]  # by seq_id; NOT_A_NUMBER where a row's logits held NaN
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)  # by seq_id, for rows that ask
    written: list[WriteOutcome] = field(default_factory=list)  # of orders of this step or earlier ones
    restored: list[ReadOutcome] = field(default_factory=list)


class StepTime(NamedTuple):
    """How long the device took for a step, its slices included."""

    step_id: int
    elapsed_s: float  # to the step's end from its start or the end of the step before, the later of them


class StepsDone(NamedTuple):
    """What has become known of steps since the engine was asked last; both oldest first.

    A step's tokens may be known before its slices are computed, so before its time.
    """

    results: tuple[StepResult, ...] = ()
    times: tuple[StepTime, ...] = ()


class StepFailed(Exception):
    """A step raised: no KV can be trusted any more, and every sequence must be computed anew."""


class EngineLost(StepFailed):
    """The engine had died, with all KV, before the step began: no sequence of the step is to blame.

    replaced: a new engine waits for the next step.
    """

    def __init__(self, message: str, replaced: bool = False) -> None:
        super().__init__(message)
        self.replaced = replaced


class Engine(Protocol):
    """The engine, as the scheduler's loop uses it. Tests have an OracleEngine, which needs no model."""

    @property
    def state(self) -> EngineState:
        """Whether the engine goes on as it should."""

    async def step(self, plan: StepPlan) -> StepsDone:
        """Queue `plan`; return the results that have come, which may be that of the step before or its own.

        Raises StepFailed when the device or model fails; nothing is in flight afterwards.
        """

    async def drain(self) -> StepsDone:
        """Return what is still in flight without queueing more. Raises StepFailed."""

    async def lost(self) -> None:
        """Wait, between steps only, until the engine has died; the next step or drain raises EngineLost."""
