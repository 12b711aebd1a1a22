"""What the scheduler has done so far, for /metrics."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What has happened so far; every field only grows."""

    prompt_tokens: int = 0  # of admitted sequences
    computed_tokens: int = 0  # prefilled by steps, those computed again after a preemption included
    generation_tokens: int = 0
    refused_tokens: int = 0  # sampled but thrown away: a constraint refused them or one before them
    prefix_queries: int = 0  # tokens looked up in the prefix tree
    prefix_hits: int = 0  # tokens found there
    prefix_waits: int = 0  # sequences that waited for another to compute their prefix
    preemptions: int = 0
    failed_steps: int = 0  # those that ended with the engine among them
    steps: int = 0
