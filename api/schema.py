"""The types of a request's body, named as in the Anthropic SDK.

Fields that are not listed are ignored, as are all betas: the client sends more than a local model can
use (`cache_control`, `context_management`, `safeguards`, …). Content blocks of an unknown type are
refused, because dropping them would silently change the conversation.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, field_validator

from ..engine.step import SamplingParams

MAX_STOP_SEQUENCES = 64
MAX_STOP_CHARS = 256  # each; the search for stop sequences reads this much text again for every token

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]


class Wire(BaseModel):
    """Base of all parts of a request; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TextBlock(Wire):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Wire):
    """The model's thoughts in an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None  # may hold thoughts that the client had omitted


class RedactedThinkingBlock(Wire):
    """Encrypted thoughts of another server: accepted and ignored."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Wire):
    """A tool call in an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolReferenceBlock(Wire):
    """The place in a tool result where the schema of a deferred tool is shown."""

    type: Literal["tool_reference"]
    tool_name: str


class MediaSource(Wire):
    """The source of a picture or sound, which is never fetched."""

    media_type: str | None = Field(default=None, max_length=100)


class MediaBlock(Wire):
    """A picture or sound, which a text model cannot read. Only OpenAI's clients send sounds."""

    type: Literal["image", "audio"]
    source: MediaSource = MediaSource()


class SearchResultBlock(Wire):
    """A text that a search found; only its content is used."""

    type: Literal["search_result"]
    content: list[TextBlock] = []


class ToolChangeBlock(Wire):
    """A change of the tool set in mid-conversation: ignored, because `tools` lists all tools."""

    type: Literal["tool_addition", "tool_removal"]


def one_block(content: object) -> object:
    """Turn a plain string into one text block: clients use both forms."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _no_blocks(content: object) -> object:
    return [] if content is None else one_block(content)


class DocumentSource(Wire):
    """The source of a document: a text, content blocks, or a PDF, which is never fetched."""

    type: str  # "text" and "content" hold text; "base64", "url" and "file" are PDFs
    media_type: str | None = Field(default=None, max_length=100)
    data: str | None = None
    content: Annotated[
        list[Annotated[TextBlock | MediaBlock, Field(discriminator="type")]],
        FailFast(),
        BeforeValidator(_no_blocks),
    ] = []


class DocumentBlock(Wire):
    """A document, with an optional title."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None


ResultBlock = Annotated[
    TextBlock | ToolReferenceBlock | MediaBlock | DocumentBlock | SearchResultBlock,
    Field(discriminator="type"),
]


class ToolResultBlock(Wire):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[list[ResultBlock], FailFast(), BeforeValidator(_no_blocks)] = []
    is_error: bool | None = None


UserBlock = Annotated[
    TextBlock | ToolResultBlock | MediaBlock | DocumentBlock | SearchResultBlock, Field(discriminator="type")
]
SystemBlock = Annotated[TextBlock | ToolChangeBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class UserMessage(Wire):
    """A message of the user, with the results of tool calls."""

    role: Literal["user"]
    content: Annotated[list[UserBlock], FailFast(), BeforeValidator(one_block)]


class SystemMessage(Wire):
    """A system text in the middle of the conversation."""

    role: Literal["system"]
    content: Annotated[list[SystemBlock], FailFast(), BeforeValidator(one_block)]


class AssistantMessage(Wire):
    """An earlier answer of the model."""

    role: Literal["assistant"]
    content: Annotated[list[AssistantBlock], FailFast(), BeforeValidator(one_block)]


Message = Annotated[UserMessage | SystemMessage | AssistantMessage, Field(discriminator="role")]


class Tool(Wire):
    """A tool that the client runs."""

    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    defer_loading: bool = False  # its schema is shown where a tool_reference names it, not in the head

    @property
    def is_placeholder(self) -> bool:
        """Whether the client sends the tool only to switch a beta on; the model must never call it."""
        return self.name == "DeferredToolPlaceholder"

    @property
    def is_in_head(self) -> bool:
        """Whether the head of the prompt shows the tool: it is neither deferred nor a placeholder."""
        return not self.defer_loading and not self.is_placeholder


def _client_tool(tool: object) -> object:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in (None, "custom"):
        raise ValueError(f"server tool {str(kind)[:80]!r} is not supported: this server runs no tools itself")
    return tool


class ToolChoice(Wire):
    """Whether the answer may or must call tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None  # set for type "tool"
    disable_parallel_tool_use: bool = False


class ThinkingConfig(Wire):
    """Whether the model is to think before it answers."""

    type: str  # "enabled", "adaptive", "disabled", or a later version's type
    budget_tokens: int | None = Field(default=None, ge=1)  # for type "enabled"
    display: str | None = None  # "omitted" leaves the thoughts out of the answer; any other value shows them


class OutputFormat(Wire):
    """The JSON schema of the answer."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(default={}, alias="schema")


class OutputConfig(Wire):
    """The answer's format, and the effort of its thinking."""

    format: OutputFormat | None = None
    effort: str | None = Field(default=None, max_length=20)  # of thinking, where the template knows efforts


class CountTokensRequest(Wire):
    """The fields that a request's prompt is made of: the body of `/v1/messages/count_tokens`."""

    model: str = Field(min_length=1, max_length=500)
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1)
    system: Annotated[list[TextBlock], FailFast(), BeforeValidator(_no_blocks)] = []
    tools: list[Annotated[Tool, BeforeValidator(_client_tool)]] | None = Field(default=None, fail_fast=True)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None

    @field_validator("tools")
    @classmethod
    def _unique_names(cls, tools: list[Tool] | None) -> list[Tool] | None:
        names = [tool.name for tool in tools or []]
        if len(names) != len(set(names)):
            raise ValueError("tool names must be unique")
        return tools


StopSequence = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class GenerationRequest(Wire):
    """The fields of a request that say how to sample, the same in all APIs."""

    model: str = Field(min_length=1, max_length=500)
    max_tokens: int = Field(ge=1)  # cut to what fits the context
    stream: bool = False
    stop_sequences: list[StopSequence] | None = Field(default=None, max_length=MAX_STOP_SEQUENCES)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)  # beyond Anthropic's API
    seed: int | None = Field(default=None, ge=0, lt=2**64)  # beyond Anthropic's API


class MessagesRequest(CountTokensRequest, GenerationRequest):
    """Body of `/v1/messages`."""

    @property
    def omits_thoughts(self) -> bool:
        """Whether thinking blocks come without their text."""
        return self.thinking is not None and self.thinking.display == "omitted"


def sampling_params(
    request: GenerationRequest, default: SamplingParams, vocab_size: int, seed: int, logprobs: int | None
) -> SamplingParams:
    """Merge a request's sampling fields with the model's defaults.

    seed: used where the request has no seed.
    logprobs: likeliest tokens to score beside each sampled token; None asks for no log-probabilities.
    A top_k of at least the vocabulary's size becomes 0: both keep every token.
    """
    top_k = default.top_k if request.top_k is None else request.top_k
    return SamplingParams(
        temperature=default.temperature if request.temperature is None else request.temperature,
        top_p=default.top_p if request.top_p is None else request.top_p,
        top_k=top_k if top_k < vocab_size else 0,
        min_p=default.min_p if request.min_p is None else request.min_p,
        seed=seed if request.seed is None else request.seed,
        logprobs=logprobs,
    )
