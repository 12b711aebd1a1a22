"""The fields of a request that say how to sample its answer, the same in all APIs."""

from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from ..engine.step import SamplingParams
from .lenient import bias_form, stop_list
from .refused_fields import refuse_fields
from .wire_base import Wire, false_for_null

MAX_STOP_SEQUENCES = 64
MAX_BIASES = 1024
MAX_STOP_CHARS = 256  # each; the search for stop sequences reads this much text again for every token

LEAST_TOP_P = 1e-6  # in place of 0: only the likeliest token is kept

StopSequences = Annotated[
    list[Annotated[str, Field(max_length=MAX_STOP_CHARS)]] | None,
    Field(max_length=MAX_STOP_SEQUENCES),
    BeforeValidator(stop_list),
]


class SamplingFields(Wire):
    """How tokens are chosen. All fields but the first three are beyond Anthropic's API."""

    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=-1)  # 0 and -1 keep all tokens
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    repetition_penalty: float | None = Field(
        default=None, ge=0.01, le=10.0, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    logit_bias: Annotated[
        dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100.0, le=100.0)]] | None,
        Field(max_length=MAX_BIASES),
        BeforeValidator(bias_form),
    ] = None
    min_tokens: int | None = Field(default=None, ge=0)
    stop_token_ids: list[int] | None = Field(default=None, max_length=MAX_STOP_SEQUENCES)
    ignore_eos: Annotated[bool, BeforeValidator(false_for_null)] = False

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        """Refuse a field that cannot be honoured, by its name."""
        return refuse_fields(body)


class GenerationRequest(SamplingFields):
    """The fields of a request that every route which generates reads."""

    model: str = Field(min_length=1, max_length=500)
    max_tokens: int = Field(ge=0)  # cut to what fits the context; 0 only computes and caches the prompt
    stream: Annotated[bool, BeforeValidator(false_for_null)] = False
    stop_sequences: StopSequences = None
    metadata: Any = None  # of which the user's id is read, where it makes sense

    @property
    def user_id(self) -> str:
        """The user's id that `metadata` has; empty for none."""
        user_id = self.metadata.get("user_id") if isinstance(self.metadata, dict) else None
        return user_id if isinstance(user_id, str) else ""


def sampling_params(
    request: SamplingFields, default: SamplingParams, vocab_size: int, seed: int, logprobs: int | None
) -> SamplingParams:
    """Merge a request's sampling fields with the model's defaults.

    seed: used where the request has no seed.
    logprobs: likeliest tokens to score beside each sampled token; None asks for no log-probabilities.
    A top_k of at least the vocabulary's size becomes 0: both keep every token.
    """
    top_k = default.top_k if request.top_k is None else max(request.top_k, 0)
    top_p = default.top_p if request.top_p is None else max(request.top_p, LEAST_TOP_P)
    return SamplingParams(
        temperature=default.temperature if request.temperature is None else request.temperature,
        top_p=top_p,
        top_k=top_k if top_k < vocab_size else 0,
        min_p=default.min_p if request.min_p is None else request.min_p,
        seed=seed if request.seed is None else request.seed % 2**64,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=tuple((request.logit_bias or {}).items()),
        min_tokens=request.min_tokens or 0,
        logprobs=logprobs,
    )
