"""The items of a conversation as the turns of a chat."""

from collections import abc
from collections.abc import Iterable
from typing import Any

from ...formats.thinking_signature import unseal
from ...formats.tool_calls.plain_format import describe_loaded
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
from .client_tools import added_tools, function_name
from .input_items import (
    CALL_ACTIONS,
    ActionCallItem,
    CallOutputItem,
    CompactionItem,
    FunctionCallItem,
    InputItem,
    MessageItem,
    ReasoningItem,
    ToolsItem,
)

SUMMARY = "[Summary of the earlier conversation, of which only words of the user are left:]\n"


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
        case CompactionItem() if summary := unseal(item.encrypted_content):
            return UserTurn(role="user", content=[text_part(SUMMARY + summary)])
        case ToolsItem():
            return SystemTurn(role="developer", content=_descriptions(item.tools))
        case _:
            return None


def _descriptions(tools: Iterable[Any]) -> list[UserPart]:
    return [text_part(describe_loaded(tool.function)) for tool in added_tools(tools).values()]


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
                parts.append(text_part(f"[an item of the type {item.type!r}, which this server cannot show]"))
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


def text_part(text: str) -> TextPart:
    """Return a part of a message that holds a text."""
    return TextPart(type="text", text=text)
