"""A request's state: one dataclass, one enum."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from ..cache.blocks import BlockTable
from ..cache.radix import Node
from ..engine.step import SamplingParams

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
    """

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    session: str | None = None
