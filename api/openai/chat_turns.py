"""The messages of a chat in OpenAI's API, in the spellings of its many clients.

What a client sends back has happened, and so nothing here is refused that can be shown: a part of an unknown
type becomes a note, a missing id is made up.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from ..lenient import Json, call_input
from ..wire_base import Wire

# Types of parts that hold a text, and the key of their text.
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "summary_text": "text"}
TEXT_PARTS |= {"refusal": "refusal", "reasoning_text": "text"}
PARTS = frozenset({"text", "thinking", "image_url", "input_audio", "file"})


class TextPart(Wire):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingPart(Wire):
    """Thoughts of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


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
    file: File = File()


def parts_form(content: Json) -> Json:
    """Return a message's content as a list of parts of known types."""
    if content is None:
        return []
    if not isinstance(content, list):
        content = [content]
    return [_part_form(part) for part in content]


def _part_form(part: Json) -> Json:
    if isinstance(part, Wire):
        return part  # of another request of OpenAI's, and read already
    if not isinstance(part, dict):
        return {"type": "text", "text": part if isinstance(part, str) else str(part)}
    kind = str(part.get("type", "text" if "text" in part else None))
    if kind in TEXT_PARTS:
        text = part.get(TEXT_PARTS[kind])
        return {"type": "text", "text": "" if text is None else text}
    if kind in ("thinking", "reasoning"):
        return {"type": "thinking", "thinking": _thoughts(part)}
    if kind in ("image_url", "input_image", "image"):
        url = part.get("image_url")
        return {"type": "image_url", "image_url": url if isinstance(url, dict) else {"url": url or ""}}
    if kind in ("file", "input_file"):
        file = part.get("file", part)
        return {"type": "file", "file": file if isinstance(file, dict) else {}}
    if kind in PARTS:
        return part
    shown = part.get("text")
    note = f"[a part of the type {str(kind)[:80]!r}, which this server cannot show]"
    return {"type": "text", "text": shown if isinstance(shown, str) else note}


def _thoughts(part: dict[str, Json]) -> str:
    """Return the thoughts of a part, which are a text, or a list of parts of text."""
    found = part.get("thinking", part.get("text", part.get("summary")))
    if isinstance(found, str):
        return found
    parts = [_part_form(inner) for inner in found] if isinstance(found, list) else []
    return "".join(str(inner.get("text", "")) for inner in parts)


UserPart = Annotated[TextPart | ThinkingPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]
Parts = Annotated[list[UserPart], FailFast(), BeforeValidator(parts_form)]


class SystemTurn(Wire):
    """A system message, by its old or its new role."""

    role: Literal["system", "developer"]
    content: Parts = Field(default=[])


class UserTurn(Wire):
    """A message of the user."""

    role: Literal["user"]
    content: Parts = Field(default=[])


class Function(Wire):
    """A called function's name, and its arguments."""

    name: str = ""
    arguments: Annotated[dict[str, Any], BeforeValidator(call_input)] = Field(default={})


class FunctionCall(Wire):
    """A tool call in an earlier answer."""

    id: str
    function: Function = Function()


class AssistantTurn(Wire):
    """An earlier answer of the model. Local servers agree on two names for its thoughts."""

    role: Literal["assistant"]
    content: Parts = Field(default=[])
    tool_calls: list[FunctionCall] | None = Field(default=None, fail_fast=True)
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def thoughts(self) -> str:
        """The answer's thoughts; empty where it has none."""
        parts = [part.thinking for part in self.content if isinstance(part, ThinkingPart)]
        return self.reasoning_content or self.reasoning or "".join(parts)


class ToolTurn(Wire):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: str
    content: Parts = Field(default=[])


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


def turn_forms(messages: Json) -> Json:
    """Return a chat's messages with the older spellings of calls and results as the newer ones.

    A call without an id gets one. A result without one belongs to the oldest call that has no result yet,
    and of the same name where the result has a name.
    """
    if not isinstance(messages, list):
        return messages
    open_calls: list[tuple[str, str]] = []  # (id, name) of calls whose results have not come
    return [_turn_form(message, i, open_calls) for i, message in enumerate(messages)]


def _turn_form(message: Json, place: int, open_calls: list[tuple[str, str]]) -> Json:
    if not isinstance(message, dict):
        return message
    if message.get("role") == "assistant":
        return _with_call_ids(message, place, open_calls)
    if message.get("role") not in ("tool", "function"):
        return message
    found, name = message.get("tool_call_id"), message.get("name")
    if found is None:
        named = [call for call in open_calls if call[1] == name]
        found = (named or open_calls or [(f"call_{place}", "")])[0][0]
    open_calls[:] = [call for call in open_calls if call[0] != str(found)]
    return message | {"role": "tool", "tool_call_id": str(found)}


def _with_call_ids(message: dict[str, Json], place: int, open_calls: list[tuple[str, str]]) -> Json:
    calls, older = message.get("tool_calls"), message.get("function_call")
    if not calls and isinstance(older, dict):
        calls = [{"function": older}]
    if not isinstance(calls, list):
        return message
    named = []
    for i, call in enumerate(calls):
        if not isinstance(call, dict):
            return message  # refused by the type
        # Without `function`, the call may be flat.
        inner = call.get("function")
        function = inner if isinstance(inner, dict) else call
        found = call.get("id") or call.get("call_id") or f"call_{place}_{i}"
        named.append({"id": str(found), "function": function})
        open_calls.append((str(found), str(function.get("name"))))
    return message | {"tool_calls": named}
