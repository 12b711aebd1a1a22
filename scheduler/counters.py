"""Counters of the scheduler's work, for /health and /metrics."""

from dataclasses import dataclass

from ..engine.step import StepKind


@dataclass(slots=True)
class Counters:
    """Totals since the scheduler was made; every number only grows. /health shows them under these names."""

    prompt_tokens: int = 0  # of admitted sequences
    computed_tokens: int = 0  # prefilled by steps; tokens computed again after a preemption count again
    generation_tokens: int = 0  # sampled and accepted, stop tokens included
    refused_tokens: int = 0  # sampled but thrown away: a constraint refused them or a token before them
    prefix_cache_queries: int = 0  # tokens looked up in the prefix tree at admission
    prefix_cache_hits: int = 0  # tokens found there
    disk_cache_hits: int = 0  # of these, tokens whose KV was read from disk for the request
    prefix_waits: int = 0  # sequences that waited for another one to compute a prefix that both share
    evictions: int = 0  # blocks taken from the prefix tree
    checkpoints_taken: int = 0  # recurrent states given to the prefix tree
    checkpoints_evicted: int = 0  # of these, dropped because state slots ran short
    checkpoints_thinned: int = 0  # of these, dropped because later ones of their path made up for them
    preemptions: int = 0
    failed_steps: int = 0  # including steps in which the engine died
    steps: int = 0
    decode_steps: int = 0  # of the steps whose results came, those with decode rows alone
    decode_steps_s: float = 0.0  # the device's time in them
    prefill_steps: int = 0  # with slices of prompts alone
    prefill_steps_s: float = 0.0
    mixed_steps: int = 0  # with both
    mixed_steps_s: float = 0.0

    def count_step(self, kind: StepKind, elapsed_s: float) -> None:
        """Count a step by its kind, and the device's time."""
        match kind:
            case "decode":
                self.decode_steps += 1
                self.decode_steps_s += elapsed_s
            case "prefill":
                self.prefill_steps += 1
                self.prefill_steps_s += elapsed_s
            case "mixed":
                self.mixed_steps += 1
                self.mixed_steps_s += elapsed_s
            case "transfer":
                pass  # a thread copies beside the device's work
