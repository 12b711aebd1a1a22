"""The body of `POST /v1/responses`, and its translation to a chat."""

from collections import abc
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, model_validator

from ...errors import InvalidRequest
from ...formats.thinking_signature import unseal
from ...formats.tool_calls.plain_format import describe_loaded
from ...lenient import call_input
from ...schema import ToolChoice
from ...wire_base import Wire
from ..chat_turns import (
    AssistantTurn,
    Function,
    FunctionCall,
    SystemTurn,
    TextPart,
    ThinkingPart,
    ToolTurn,
    Turn,
    UserPart,
    UserTurn,
)
from ..reasoning import Reasoning, ReasoningFields
from ..requests import ChatRequest, OpenAIRequest
from .client_tools import (
    AnyTool,
    ChosenTools,
    ClientTool,
    added_tools,
    chosen_names,
    function_name,
    read_tools,
)
from .input_items import (
    CALL_ACTIONS,
    ActionCallItem,
    CallOutputItem,
    FunctionCallItem,
    InputItem,
    MessageItem,
    ReasoningItem,
    ToolsItem,
)

REFUSED: dict[str, tuple[object, ...]] = {
    # Fields that would change the answer, each with the values that do not.
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "context_management": ([],),
    "n": (1,),
}


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


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
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=16)

    @model_validator(mode="before")
    @classmethod
    def _refuse_state(cls, body: object) -> object:
        """Refuse a field that cannot be honoured, by its name."""
        for name, harmless in REFUSED.items() if isinstance(body, dict) else ():
            value = body.get(name) if isinstance(body, dict) else None
            if value is not None and value not in harmless:
                raise ValueError(f"{name}: not supported by this server")
        return body

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
        turns.insert(0, SystemTurn(role="system", content=[_text(body.instructions)]))
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


def chat_turns(items: Iterable[InputItem]) -> list[Turn]:
    """Translate a conversation. The items of one answer, which follow one another, become one turn."""
    turns: list[Turn] = []
    answer: list[InputItem] = []
    for item in items:
        turn = _turn(item)
        if turn is None:
            answer.append(item)
            continue
        turns += _answer(answer)
        answer = []
        turns.append(turn)
    return [*turns, *_answer(answer)]


def _turn(item: InputItem) -> Turn | None:
    """Return the turn of an item that is not the model's; None for the model's items."""
    match item:
        case MessageItem(role="user"):
            return UserTurn(role="user", content=item.content)
        case MessageItem(role="system" | "developer"):
            return SystemTurn(role="system", content=item.content)
        case CallOutputItem():
            content = [*item.output, *_descriptions(item.tools or ())]
            return ToolTurn(role="tool", tool_call_id=item.call_id, content=content)
        case ToolsItem():
            return SystemTurn(role="developer", content=_descriptions(item.tools))
        case _:
            return None


def _descriptions(tools: Iterable[Any]) -> list[UserPart]:
    return [_text(describe_loaded(tool.function)) for tool in added_tools(tools).values()]


def _answer(items: abc.Sequence[InputItem]) -> list[Turn]:
    """Return the turn of the items of one answer, none where there are no items."""
    if not items:
        return []
    parts: list[UserPart] = []
    calls: list[FunctionCall] = []
    for item in items:
        match item:
            case MessageItem():
                parts += item.content
            case FunctionCallItem() | ActionCallItem():
                calls.append(_call(item))
            case ReasoningItem():
                parts.append(ThinkingPart(type="thinking", thinking=_thoughts(item)))
            case _:
                parts.append(_text(f"[an item of the type {item.type!r}, which this server cannot show]"))
    return [AssistantTurn(role="assistant", content=parts, tool_calls=calls or None)]


def _call(item: FunctionCallItem | ActionCallItem) -> FunctionCall:
    if isinstance(item, ActionCallItem):
        name = item.type.removesuffix("_call")
        fields = getattr(item, CALL_ACTIONS[item.type]) or {}
        # What the item adds to the call's arguments: an action's type is always "exec", its env empty.
        arguments = {key: value for key, value in fields.items() if value is not None}
        if name == "local_shell":
            arguments = {key: value for key, value in arguments.items() if key not in ("type", "env")}
    else:
        name = function_name(item.name, item.namespace)
        arguments = {"input": item.input} if item.type == "custom_tool_call" else item.arguments
    return FunctionCall(id=item.call_id, function=Function(name=name, arguments=arguments))


def _thoughts(item: ReasoningItem) -> str:
    """Return an item's thoughts: as they are, unsealed, or the summary."""
    return _join(item.content) or unseal(item.encrypted_content) or _join(item.summary)


def _join(parts: Iterable[UserPart]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def _text(text: str) -> TextPart:
    return TextPart(type="text", text=text)


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
