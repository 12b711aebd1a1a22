"""The facts of the served model that scheduler and API need."""

from dataclasses import dataclass

from .step import SamplingParams


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
