"""The objects that all routes share: made once by the application's factory."""

from dataclasses import dataclass
from typing import Any

from ..engine.served_model import ServedModel
from .config import KeepAlive, ThinkingDefault
from .formats.model_format import ModelFormat
from .grammar.constraint_factory import ConstraintFactory
from .metrics import Metrics
from .prompt.abilities import Abilities
from .prompt.prompt import PromptBuilder
from .protocols import SchedulerInterface
from .reports.request_log import RequestLog
from .twins import Twins
from .web_search import SearchCommand


@dataclass(frozen=True, slots=True)
class Services:
    """The served model, the scheduler, and the parts of the API that work with them."""

    model: ServedModel
    model_format: ModelFormat
    scheduler: SchedulerInterface
    prompts: PromptBuilder
    constraint_factory: ConstraintFactory | None  # None where no grammar can be compiled for the model
    abilities: Abilities  # of the model's chat template
    metrics: Metrics
    search: SearchCommand | None  # searches the web; None where the user has named no command
    thinking: ThinkingDefault  # whether the model thinks where a request does not say
    keep_alive: KeepAlive
    requests: RequestLog
    twins: Twins[Any]
