"""The body of `POST /v1/responses`, and its translation to a chat."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, model_validator

from ...errors import InvalidRequest
from ...lenient import call_input
from ...schema import ToolChoice
from ...wire_base import Wire, false_for_null
from ..chat_turns import SystemTurn
from ..reasoning import Reasoning, ReasoningFields
from ..requests import ChatRequest, OpenAIRequest
from .client_tools import AnyTool, ChosenTools, ClientTool, added_tools, chosen_names, read_tools
from .input_items import CallOutputItem, InputItem, ToolsItem
from .item_turns import chat_turns, text_part

REFUSED: dict[str, tuple[object, ...]] = {
    # Fields that would change the answer, each with the values that do not.
    "prompt": (),
    "context_management": ([],),
    "n": (1,),
}


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue] | None, Field(default=None, max_length=16)]


class NamedConversation(Wire):
    """A conversation that the server keeps, by its id."""

    id: str = Field(max_length=200)


class TextFormat(Wire):
    """The answer's format."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    json_schema: dict[str, Any] = Field(default={}, alias="schema")


class TextConfig(Wire):
    """Options of the answer's text."""

    format: TextFormat | None = None


class SummarisedReasoning(Reasoning):
    """Options of the model's thoughts."""

    summary: str | None = Field(default=None, max_length=20)
    generate_summary: str | None = Field(default=None, max_length=20)  # the older name


def _one_message(content: object) -> object:
    return [{"role": "user", "content": content}] if isinstance(content, str) else content or []


def _by_id(conversation: object) -> object:
    return {"id": conversation} if isinstance(conversation, str) else conversation


def _known_choice(choice: object) -> object:
    if isinstance(choice, dict) or choice in (None, "none", "auto", "required"):
        return choice
    raise ValueError("must be none, auto, required or an object")


class ResponsesRequest(OpenAIRequest, ReasoningFields):
    """Body of `/v1/responses`."""

    items: Annotated[list[InputItem], FailFast(), BeforeValidator(_one_message)] = Field(
        default=[], validation_alias="input"
    )
    input: Annotated[list[Any], BeforeValidator(_one_message)] = Field(default=[])  # the items, as they came
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=200)
    store: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[AnyTool] | None = Field(default=None, fail_fast=True)
    tool_choice: Annotated[str | ChosenTools | None, BeforeValidator(_known_choice)] = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: SummarisedReasoning | None = None
    include: list[str] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    prompt_cache_key: str | None = Field(default=None, max_length=500)
    client_metadata: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata
    background: Annotated[bool, BeforeValidator(false_for_null)] = False
    conversation: Annotated[NamedConversation | None, BeforeValidator(_by_id)] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_state(cls, body: object) -> object:
        """Refuse a field that cannot be honoured, by its name."""
        for name, harmless in REFUSED.items() if isinstance(body, dict) else ():
            value = body.get(name) if isinstance(body, dict) else None
            if value is not None and value not in harmless:
                raise ValueError(f"{name}: not supported by this server")
        return body

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse fields that exclude one another."""
        if self.background and not self.is_stored:
            raise ValueError("background: the response must be stored, since it is asked for by its id")
        if self.conversation is not None and self.previous_response_id is not None:
            raise ValueError("conversation: excludes previous_response_id")
        return self

    @property
    def conversation_id(self) -> str | None:
        """The conversation that the request goes on with, of those that the server keeps."""
        return self.conversation.id if self.conversation else None

    @property
    def codex_request_kind(self) -> str | None:
        """What Codex makes the request for, such as "turn" or "compaction"; None for other clients."""
        told = (self.client_metadata or {}).get("x-codex-turn-metadata")
        kind = call_input(told).get("request_kind")
        return kind if isinstance(kind, str) else None

    @property
    def is_stored(self) -> bool:
        """Whether the answer is kept for later requests."""
        return self.store is not False

    @property
    def wants_summary(self) -> bool:
        """Whether the client reads thoughts as a summary."""
        reasoning = self.reasoning or SummarisedReasoning()
        return (reasoning.summary or reasoning.generate_summary or "none") != "none"

    def includes(self, name: str) -> bool:
        """Return whether the client asks for an optional part of the answer."""
        return name in (self.include or ())


class CountedRequest(ResponsesRequest):
    """Body of `/v1/responses/input_tokens`, in which the model may be missing."""

    model: str = Field(default="default", min_length=1, max_length=500)


def chat_request(
    body: ResponsesRequest, items: Iterable[InputItem], tools: dict[str, ClientTool]
) -> ChatRequest:
    """Translate a request to a chat.

    items: the conversation, in which references are replaced by the items that they name.
    Raises InvalidRequest for an empty conversation, or for a `tool_choice` that names no tool.
    """
    turns = chat_turns(items)
    if body.instructions:
        turns.insert(0, SystemTurn(role="system", content=[text_part(body.instructions)]))
    if not turns:
        raise InvalidRequest("input: the conversation is empty")
    shared = [*OpenAIRequest.model_fields, *ReasoningFields.model_fields]
    fields = {name: getattr(body, name) for name in shared} | {
        "messages": turns,
        "max_completion_tokens": body.max_output_tokens,
        "tools": [tool.function for tool in tools.values()],
        "tool_choice": _tool_choice(body.tool_choice, tools),
        "parallel_tool_calls": body.parallel_tool_calls,
        "logprobs": body.includes("message.output_text.logprobs") or bool(body.top_logprobs),
        "top_logprobs": body.top_logprobs,
        "response_format": _response_format(body.text),
    }
    return ChatRequest(**fields)


def tools_of(body: ResponsesRequest, items: Iterable[InputItem]) -> tuple[dict[str, ClientTool], list[str]]:
    """Return all tools of a request, those that its conversation adds among them, by the model's names.

    Beside them stand the types of the tools that are left out. Raises InvalidRequest as `read_tools` does.
    """
    tools, left_out = read_tools(body.tools or ())
    for item in items:
        if isinstance(item, CallOutputItem | ToolsItem):
            tools = added_tools(item.tools or ()) | tools
    return tools, left_out


def _tool_choice(choice: str | ChosenTools | None, tools: dict[str, ClientTool]) -> Any:
    """Return the chat's tool choice, with the model's names of tools. Raises InvalidRequest."""
    if not isinstance(choice, ChosenTools):
        return choice
    if choice.type != "allowed_tools":
        (name, *_) = chosen_names(tools, choice)
        return ToolChoice(type="tool", name=name)
    names = [name for tool in choice.tools or () for name in chosen_names(tools, tool)]
    return ToolChoice(type="any" if choice.mode == "required" else "auto", names=names)


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    return text.format.model_dump(by_alias=True) if text and text.format else None
