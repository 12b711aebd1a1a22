"""The types of a request's body in OpenAI's API, as far as a local model can serve them.

Other fields are ignored, except those that would change the answer (`refused_fields.py`).
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, FailFast, Field, field_validator, model_validator

from ..generation import SamplingFields, StopSequences
from ..guided_fields import GuidedFields
from ..lenient import tool_choice_form, tool_form
from ..schema import MAX_MESSAGES, RawRequest, Tool, ToolChoice
from ..wire_base import Wire, false_for_null
from .chat_turns import Turn, turn_forms
from .reasoning import ReasoningFields

MAX_CHOICES = 8
ALL_THAT_FITS = 2**31  # the pipeline cuts max_tokens to the room that the context leaves


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool = False


def _none_for_false(number: object) -> object:
    return None if number is False else number


MaxTokens = Annotated[int | None, Field(default=None, ge=-1)]
"""A bound of the answer's length; -1 sets none, as with LM Studio and llama.cpp."""


class OpenAIRequest(SamplingFields, GuidedFields):
    """The fields that the bodies of both routes share."""

    model: str = Field(min_length=1, max_length=500)
    stream: Annotated[bool, BeforeValidator(false_for_null)] = False
    stream_options: StreamOptions | None = None
    stop: StopSequences = None
    max_tokens: MaxTokens
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)

    @property
    def num_choices(self) -> int:
        """How many answers the client wants."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether the client asks for the usage at the end of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage

    def generation_fields(self, max_tokens: int | None) -> dict[str, Any]:
        """Return the fields of a GenerationRequest. max_tokens: None or -1 for all that fit."""
        sampling = {name: getattr(self, name) for name in SamplingFields.model_fields}
        return sampling | {
            "model": self.model,
            "max_tokens": ALL_THAT_FITS if max_tokens in (None, -1) else max_tokens,
            "stream": self.stream,
            "stop_sequences": self.stop,
        }


class ChatRequest(OpenAIRequest, ReasoningFields):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], FailFast(), BeforeValidator(turn_forms)] = Field(
        min_length=1, max_length=MAX_MESSAGES
    )
    max_completion_tokens: MaxTokens  # the newer name; it wins
    tools: list[Annotated[Tool, BeforeValidator(tool_form)]] | None = Field(default=None, fail_fast=True)
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(tool_choice_form)] = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _logprobs_first(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        return self

    @property
    def num_likeliest(self) -> int | None:
        """How many of the likeliest tokens to return beside each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(OpenAIRequest):
    """Body of `/v1/completions`: the prompt goes to the model as it is, as text or as token ids."""

    prompt: str | list[int]
    logprobs: Annotated[int | None, BeforeValidator(_none_for_false)] = Field(
        default=None, ge=0, le=5, strict=True
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, prompt: object) -> object:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
            if len(prompt) > 1:
                raise ValueError("more than one prompt in a request is not supported by this server")
            return prompt[0]
        return prompt

    def generation_request(self) -> RawRequest:
        """Translate to a RawRequest. OpenAI's default length is 16 tokens."""
        limit = 16 if self.max_tokens is None else self.max_tokens
        return RawRequest(**self.generation_fields(limit), output_format=self.output_format)
