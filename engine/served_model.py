"""The facts of the served model that scheduler and API need."""

from dataclasses import dataclass

from ..cache.blocks import BLOCK_SIZE
from .step import SamplingParams


@dataclass(frozen=True, slots=True)
class WindowPool:
    """The KV pools of layers that see a window of tokens only, where they keep no more of each sequence."""

    size: int  # tokens that such a layer sees, itself included; the most where layers differ
    num_blocks: int
    slice_tokens: int  # most tokens of one step: a slice is kept whole while it is computed
    max_running: int = 1  # sequences that may run at once: the rest of the blocks are for checkpoints

    @property
    def state_blocks(self) -> int:
        """Blocks of the tokens that a token at a block's beginning sees: those of a checkpoint."""
        return -(-(self.size - 1) // BLOCK_SIZE)

    @property
    def sequence_blocks(self) -> int:
        """Most blocks that a running sequence needs beside those of its slice.

        A window begins and ends within a block, and the newest tokens are planned ahead of known ones.
        """
        return self.state_blocks + 3

    @property
    def slice_blocks(self) -> int:
        """Blocks that a step's slices need."""
        return -(-self.slice_tokens // BLOCK_SIZE)

    @property
    def promised_blocks(self) -> int:
        """Blocks that running sequences and a step's slices may need."""
        return self.slice_blocks + self.max_running * self.sequence_blocks


@dataclass(frozen=True, slots=True)
class PoolLayout:
    """How KV and states are laid out in files.

    text: all that files must agree in with the pools that read them.
    """

    text: str
    block_bytes: int  # of one KV block, over all layers that keep all tokens
    state_bytes: int  # of one recurrent state
    window_block_bytes: int  # of one block of a window, over all layers that have such blocks


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes that one of several devices keeps of the model, and of what it computes."""

    weight_bytes: int
    kv_bytes: int
    state_bytes: int  # of all recurrent states


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model that is loaded and checked: plain values, picklable."""

    name: str  # as the user asked for it
    vocab_size: int  # size of the logits' last axis
    max_context: int  # prompt and answer together, in tokens
    eos_token_ids: frozenset[int]
    default_sampling: SamplingParams  # for requests that set nothing
    kv_type: str  # type in which KV is kept, for people to read
    kv_bytes_per_token: int  # over all layers
    num_blocks: int  # of KV
    num_kv_tokens: int  # tokens whose KV fits into these blocks
    step_tokens: int  # tokens that one step may compute
    device: str  # device that computes, for people to read
    attention: str  # implementation that computes attention, for people to read
    num_state_slots: int = 0  # recurrent states that are kept at once; 0 for models without such states
    state_bytes: int = 0  # of one recurrent state, over all layers
    window: WindowPool | None = None  # None where all layers keep all tokens
    pool_layout: PoolLayout | None = None  # None where nothing can be kept in files
    ranks: tuple[RankMemory, ...] = ()  # the devices over which the model is spread; empty for one
