"""The types of a request's body in OpenAI's API, as far as a local model can serve them.

Other fields are ignored, except those in REFUSED, which would change the answer and cannot be honoured.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, field_validator, model_validator

from ..schema import MAX_STOP_SEQUENCES, GenerationRequest, StopSequence, ToolName, Wire, one_block

REFUSED: dict[str, tuple[object, ...]] = {
    # Fields that would change the answer, each with the values that do not.
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
}


class TextPart(Wire):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where a picture comes from."""

    url: str  # of the picture, or the picture itself as a data: URL; never fetched


class ImagePart(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class AudioPart(Wire):
    """A sound."""

    type: Literal["input_audio"]


class File(Wire):
    """A file, of which only the name is read."""

    filename: str | None = None


class FilePart(Wire):
    """A file."""

    type: Literal["file"]
    file: File


class RefusalPart(Wire):
    """The model's refusal in an earlier answer."""

    type: Literal["refusal"]
    refusal: str


def _no_parts(content: object) -> object:
    return [] if content is None else one_block(content)


UserPart = Annotated[TextPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]
Texts = Annotated[list[TextPart], FailFast(), BeforeValidator(_no_parts)]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemTurn(Wire):
    """A system message, by its old or its new role."""

    role: Literal["system", "developer"]
    content: Texts


class UserTurn(Wire):
    """A message of the user."""

    role: Literal["user"]
    content: Annotated[list[UserPart], FailFast(), BeforeValidator(one_block)]


class Function(Wire):
    """A called function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class FunctionCall(Wire):
    """A tool call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AssistantTurn(Wire):
    """An earlier answer of the model."""

    role: Literal["assistant"]
    content: Annotated[list[AssistantPart], FailFast(), BeforeValidator(_no_parts)] = Field(default=[])
    tool_calls: list[FunctionCall] | None = Field(default=None, fail_fast=True)
    reasoning_content: str | None = None  # thoughts, by the name that local servers have agreed on


class ToolTurn(Wire):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: str
    content: Annotated[list[UserPart], FailFast(), BeforeValidator(_no_parts)]


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


class FunctionSpec(Wire):
    """A tool's name, description and schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(Wire):
    """A tool that the client runs."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(Wire):
    """A tool's name."""

    name: str


class NamedChoice(Wire):
    """The one tool that the answer must call."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Wire):
    """The JSON schema of the answer."""

    json_schema: dict[str, Any] = Field(default={}, alias="schema")


class ResponseFormat(Wire):
    """The answer's format."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool = False


def _stop_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _none_for_false(number: object) -> object:
    return None if number is False else number


class OpenAIRequest(Wire):
    """The fields that the bodies of both routes share."""

    model: str = Field(min_length=1, max_length=500)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[
        list[StopSequence] | None, BeforeValidator(_stop_list), Field(max_length=MAX_STOP_SEQUENCES)
    ] = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=-1)  # beyond OpenAI's API; -1 keeps all tokens, as in vLLM
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)  # beyond OpenAI's API
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: object) -> object:
        """Refuse a field that cannot be honoured, by its name."""
        for name, harmless in REFUSED.items() if isinstance(body, dict) else ():
            value = body.get(name) if isinstance(body, dict) else None
            if value is not None and value not in harmless:
                raise ValueError(f"{name}: {str(value)[:40]!r} is not supported by this server")
        return body

    @property
    def include_usage(self) -> bool:
        """Whether the client asks for the usage at the end of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage

    def generation_fields(self, max_tokens: int) -> dict[str, Any]:
        """Return the fields of a GenerationRequest."""
        return {
            "model": self.model,
            "max_tokens": max_tokens,
            "stream": bool(self.stream),
            "stop_sequences": self.stop,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "seed": None if self.seed is None else self.seed % 2**64,
        }


class ChatRequest(OpenAIRequest):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], FailFast()] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name; it wins
    tools: list[FunctionTool] | None = Field(default=None, fail_fast=True)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = Field(default=None, max_length=20)

    @model_validator(mode="after")
    def _logprobs_first(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
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

    def generation_request(self) -> GenerationRequest:
        """Translate to a GenerationRequest. OpenAI's default length is 16 tokens."""
        return GenerationRequest(**self.generation_fields(self.max_tokens or 16))
