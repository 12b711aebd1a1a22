"""The types of a request's body, named as in the Anthropic SDK.

Fields that are not listed are ignored, as are all betas: the client sends more than a local model can
use (`cache_control`, `safeguards`, …). Content blocks of an unknown type become
texts: dropping them would silently change the conversation, and refusing them would end the session.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    FailFast,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from .context_edits import ContextEdits, read_edits
from .generation import GenerationRequest
from .guided_fields import GuidedFields, OutputFormat
from .lenient import call_input, tool_choice_form, tool_form
from .server_rounds import in_rounds
from .server_tools import server_tool_form
from .tidy_schema import tidy_schema
from .unknown_blocks import text_block
from .wire_base import Wire, false_for_null, no_blocks

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]

MAX_MESSAGES = 100_000  # as in Anthropic's API; to read more takes seconds


class TextBlock(Wire):
    """A text."""

    type: Literal["text"]
    text: str


def _or_text(block: object, read: ValidatorFunctionWrapHandler) -> object:
    """Read a block; one that cannot be read becomes a text, because no block of an old turn is refused."""
    try:
        return read(block)
    except ValidationError:
        text = text_block(block)
        if text is block:
            raise
        return TextBlock.model_validate(text)


ShownBlock = WrapValidator(_or_text)


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
    input: Annotated[dict[str, Any], BeforeValidator(call_input)] = Field(default={})


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
    content: list[TextBlock] = Field(default=[])


class ToolChangeBlock(Wire):
    """A change of the tool set in mid-conversation: ignored, because `tools` lists all tools."""

    type: Literal["tool_addition", "tool_removal"]


class DocumentSource(Wire):
    """The source of a document: a text, content blocks, or a PDF, which is never fetched."""

    type: str  # "text" and "content" hold text; "base64", "url" and "file" are PDFs
    media_type: str | None = Field(default=None, max_length=100)
    data: str | None = None
    content: Annotated[
        list[Annotated[TextBlock | MediaBlock, Field(discriminator="type")]],
        FailFast(),
        BeforeValidator(no_blocks),
    ] = Field(default=[])


class DocumentBlock(Wire):
    """A document, with an optional title."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None


ResultBlock = Annotated[
    TextBlock | ToolReferenceBlock | MediaBlock | DocumentBlock | SearchResultBlock,
    Field(discriminator="type"),
    ShownBlock,
]


class ToolResultBlock(Wire):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[list[ResultBlock], FailFast(), BeforeValidator(no_blocks)] = Field(default=[])
    is_error: bool | None = None


UserBlock = Annotated[
    TextBlock | ToolResultBlock | MediaBlock | DocumentBlock | SearchResultBlock,
    Field(discriminator="type"),
    ShownBlock,
]
SystemBlock = Annotated[TextBlock | ToolChangeBlock, Field(discriminator="type"), ShownBlock]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type"), ShownBlock
]


class UserMessage(Wire):
    """A message of the user, with the results of tool calls."""

    role: Literal["user"]
    content: Annotated[list[UserBlock], FailFast(), BeforeValidator(no_blocks)]


class SystemMessage(Wire):
    """A system text in the middle of the conversation."""

    role: Literal["system"]
    content: Annotated[list[SystemBlock], FailFast(), BeforeValidator(no_blocks)]


class AssistantMessage(Wire):
    """An earlier answer of the model."""

    role: Literal["assistant"]
    content: Annotated[list[AssistantBlock], FailFast(), BeforeValidator(no_blocks)]


Message = Annotated[UserMessage | SystemMessage | AssistantMessage, Field(discriminator="role")]


class ServerTool(Wire):
    """What a request says of a tool that the server runs. max_uses: in one answer."""

    kind: Literal[
        "web_search",
        "web_fetch",
        "code_execution",
        "advisor",
        "tool_search_tool_regex",
        "tool_search_tool_bm25",
    ]
    max_uses: int | None = Field(default=None, ge=1)
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()


class Tool(Wire):
    """A tool that the client runs, or the server.

    defer_loading: its schema is shown where a tool_reference names it, not in the head. server: None for a
    tool that the client runs.
    """

    name: ToolName
    description: str | None = None
    input_schema: Annotated[dict[str, Any], BeforeValidator(tidy_schema)]
    defer_loading: Annotated[bool, BeforeValidator(false_for_null)] = False
    server: ServerTool | None = None

    @property
    def is_placeholder(self) -> bool:
        """Whether the client sends the tool only to switch a beta on; the model must never call it."""
        return self.name == "DeferredToolPlaceholder"

    @property
    def is_in_head(self) -> bool:
        """Whether the head of the prompt shows the tool: it is neither deferred nor a placeholder."""
        return not self.defer_loading and not self.is_placeholder


class ToolChoice(Wire):
    """Whether the answer may or must call tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None  # set for type "tool"
    names: list[str] | None = None  # of the tools that may be called, None for all; only OpenAI's clients
    disable_parallel_tool_use: Annotated[bool, BeforeValidator(false_for_null)] = False


class ThinkingConfig(Wire):
    """Whether the model is to think before it answers."""

    type: str  # "enabled", "adaptive", "disabled", a later version's, or "auto": as the template has it
    budget_tokens: int | None = Field(default=None, ge=1)  # for type "enabled"
    display: str | None = None  # "omitted" leaves the thoughts out of the answer; any other value shows them


class OutputConfig(Wire):
    """The answer's format, and the effort of its thinking."""

    format: OutputFormat | None = None
    effort: str | None = Field(default=None, max_length=20)  # of thinking, where the template knows efforts


def _any_tool_form(tool: object) -> object:
    form = server_tool_form(tool)
    if form is None:
        form = tool_form(tool)
        if isinstance(form, dict):
            form = {key: value for key, value in form.items() if key != "server"}  # of the client's own
    return form


class CountTokensRequest(GuidedFields):
    """The fields that a request's prompt is made of: the body of `/v1/messages/count_tokens`."""

    model: str = Field(min_length=1, max_length=500)
    messages: Annotated[list[Message], FailFast(), BeforeValidator(in_rounds)] = Field(
        min_length=1, max_length=MAX_MESSAGES
    )
    system: Annotated[list[TextBlock], FailFast(), BeforeValidator(no_blocks)] = Field(default=[])
    tools: list[Annotated[Tool, BeforeValidator(_any_tool_form)]] | None = Field(default=None, fail_fast=True)
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(tool_choice_form)] = None
    thinking: ThinkingConfig | None = None
    enable_thinking: bool | None = None  # beyond Anthropic's API, as is the next field
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the model's template
    output_config: OutputConfig | None = None
    context: Annotated[ContextEdits | None, BeforeValidator(read_edits)] = Field(
        default=None, alias="context_management"
    )

    @field_validator("tools")
    @classmethod
    def _unique_names(cls, tools: list[Tool] | None) -> list[Tool] | None:
        names = [tool.name for tool in tools or []]
        if len(names) != len(set(names)):
            raise ValueError("tool names must be unique")
        return tools


class RawRequest(GenerationRequest, GuidedFields):
    """A request whose prompt goes to the model as it is."""


class MessagesRequest(CountTokensRequest, GenerationRequest):
    """Body of `/v1/messages`."""

    n: Literal[1] | None = None  # an answer of this API holds no choices

    @property
    def omits_thoughts(self) -> bool:
        """Whether thinking blocks come without their text."""
        return self.thinking is not None and self.thinking.display == "omitted"
