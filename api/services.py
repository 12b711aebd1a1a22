"""What the routes share: made once by the factory, handed to each of them."""

from collections.abc import Callable
from dataclasses import dataclass

from ..engine.served_model import ServedModel
from .formats.detokenizer import Detokenizer, TokenTexts
from .grammar.constraint_factory import ConstraintFactory
from .metrics import Metrics
from .prompt.prompt import PromptBuilder
from .protocols import SchedulerInterface
from .stream import KeepAlive


@dataclass(frozen=True, slots=True)
class Services:
    """The served model and everything that works on its behalf."""

    model: ServedModel
    scheduler: SchedulerInterface
    prompts: PromptBuilder
    constraint_factory: ConstraintFactory | None  # None for a tokenizer that no grammar can be compiled for
    think: tuple[str, str] | None  # the marks around the model's thoughts
    new_detokenizer: Callable[[], Detokenizer]
    token_texts: TokenTexts
    metrics: Metrics
    keep_alive: KeepAlive
