"""The items of a request's input, as far as a text can be made of them.

Items that clients send back from earlier answers are read leniently, because every later request repeats
them: an unknown kind of item or of content is shown to the model as a note, not refused.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from ...formats.json_text import dump
from ...lenient import Json, call_input
from ...wire_base import Wire
from ..chat_turns import Parts, UserPart, parts_form

CALL_ACTIONS = {"local_shell_call": "action", "shell_call": "action", "apply_patch_call": "operation"}
"""The kinds of calls of tools with a schema of their own, and the field that holds the call's arguments."""

OUTPUT_SUFFIX = "_call_output"


def _output_form(output: Json) -> Json:
    """Return a call's output as parts of the chat's types: also of a shell's chunks, and of older clients."""
    if isinstance(output, dict) and "type" not in output:
        output = output.get("content", dump(output))
    chunks = output if isinstance(output, list) else [output]
    if output is None or not any(isinstance(chunk, dict) and "stdout" in chunk for chunk in chunks):
        return parts_form(output)
    return parts_form([_shell_text(chunk) for chunk in chunks])


def _shell_text(chunk: Json) -> Json:
    if not isinstance(chunk, dict):
        return chunk
    texts = [str(chunk.get(name) or "") for name in ("stdout", "stderr")]
    outcome = chunk.get("outcome")
    if isinstance(outcome, dict):
        code = outcome.get("exit_code")
        texts.append(f"exit code {code}" if code is not None else str(outcome.get("type")))
    return "\n".join(text for text in texts if text)


class Item(Wire):
    """Base of all items. An item that the server has made or kept has an id."""

    type: str = Field(max_length=100)
    id: str | None = Field(default=None, max_length=500)


class MessageItem(Item):
    """A message of either side."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts = Field(default=[])


class CallItem(Item):
    """Base of the model's calls in earlier answers."""

    call_id: str = Field(max_length=500)

    @model_validator(mode="before")
    @classmethod
    def _any_id(cls, item: object) -> object:
        """Take the item's id where a client leaves the call's out."""
        if isinstance(item, dict) and item.get("call_id") is None:
            return item | {"call_id": item.get("id") or ""}
        return item


class FunctionCallItem(CallItem):
    """A call of a function; `input` is the text that a custom tool is called with."""

    type: Literal["function_call", "custom_tool_call", "tool_search_call"]
    name: str = "tool_search"
    namespace: str | None = None
    arguments: Annotated[dict[str, Any], BeforeValidator(call_input)] = Field(default={})
    input: str = ""


class ActionCallItem(CallItem):
    """A call of a tool that has a schema of its own."""

    type: Literal["local_shell_call", "shell_call", "apply_patch_call"]
    action: dict[str, Any] | None = None
    operation: dict[str, Any] | None = None


class CallOutputItem(CallItem):
    """The result of a call of any kind."""

    output: Annotated[list[UserPart], BeforeValidator(_output_form)] = Field(default=[])
    tools: list[Any] | None = None  # that a search for tools has found


class ReasoningItem(Item):
    """The model's thoughts in an earlier answer."""

    type: Literal["reasoning"]
    summary: Parts = Field(default=[])
    content: Parts = Field(default=[])
    encrypted_content: str | None = None  # thoughts that this server has sealed, or another's


class ReferenceItem(Item):
    """An item that the server has kept from an earlier answer, or from its input."""

    type: Literal["item_reference"]
    id: str = Field(max_length=500)


class ToolsItem(Item):
    """Tools that the client adds in mid-conversation."""

    type: Literal["additional_tools"]
    tools: list[Any] = Field(default=[])


class CompactionItem(Item):
    """A summary of an earlier conversation, in whose place it stands."""

    type: Literal["compaction", "compaction_summary"]
    encrypted_content: str | None = None  # sealed by this server, or another's


class OtherItem(Item):
    """An item of a kind that a local model has no use for."""


def _kind(item: object) -> str | None:
    """Return the tag of an item's class; None for what is no item."""
    if isinstance(item, Item):
        return _KINDS.get(type(item))
    if not isinstance(item, dict):
        return None
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str):
        return None
    if kind in _TAGS:
        return _TAGS[kind]
    return "output" if kind.endswith((OUTPUT_SUFFIX, "tool_search_output")) else "other"


_TAGS = {
    "message": "message",
    "function_call": "call",
    "custom_tool_call": "call",
    "tool_search_call": "call",
    **dict.fromkeys(CALL_ACTIONS, "action"),
    "reasoning": "reasoning",
    "item_reference": "reference",
    "additional_tools": "tools",
    "compaction": "compaction",
    "compaction_summary": "compaction",
}
_KINDS: dict[type[Item], str] = {
    MessageItem: "message",
    FunctionCallItem: "call",
    ActionCallItem: "action",
    CallOutputItem: "output",
    ReasoningItem: "reasoning",
    ReferenceItem: "reference",
    ToolsItem: "tools",
    CompactionItem: "compaction",
    OtherItem: "other",
}

InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("call")]
    | Annotated[ActionCallItem, Tag("action")]
    | Annotated[CallOutputItem, Tag("output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("reference")]
    | Annotated[ToolsItem, Tag("tools")]
    | Annotated[CompactionItem, Tag("compaction")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="an item is an object with a type, or a message with a role",
    ),
]

_adapter: TypeAdapter[InputItem] = TypeAdapter(InputItem)


def read_items(texts: Iterable[bytes]) -> list[InputItem]:
    """Read items that were valid before from their JSON."""
    return [_adapter.validate_json(text) for text in texts]
