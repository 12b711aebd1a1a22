"""Messages as chat templates read them: made and rewritten."""

import hashlib
import json
from collections import abc

from ..formats.tool_calls.plain_format import plain_call, plain_result
from ..formats.tool_calls.tool_format import ToolFormat
from ..protocols import TemplateMessage


def user_turn(content: str) -> TemplateMessage:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def model_turn(content: str) -> TemplateMessage:
    """Return a message of the model."""
    return {"role": "assistant", "content": content}


def reminder(text: str) -> TemplateMessage:
    """Return a system text as a message of the user."""
    return user_turn(f"<system-reminder>\n{text}\n</system-reminder>")


def call_as_text(message: TemplateMessage) -> TemplateMessage:
    """Write the calls of an answer as text, for a template that does not show them."""
    functions = [call["function"] for call in message["tool_calls"]]
    calls = [plain_call(function["name"], function["arguments"]) for function in functions]
    thoughts = {key: message[key] for key in ("reasoning_content",) if key in message}
    return model_turn("\n".join(part for part in (message["content"], *calls) if part)) | thoughts


def result_as_text(message: TemplateMessage) -> str:
    """Write a call's result as text."""
    return plain_result(message["content"])


def with_text_arguments(call: TemplateMessage) -> TemplateMessage:
    """Return a call with its arguments as JSON text."""
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return call | {"function": call["function"] | {"arguments": arguments}}


def with_written_calls(message: TemplateMessage, tool_format: ToolFormat) -> TemplateMessage:
    """Return an answer with its calls in its text, as the model writes them."""
    functions = [call["function"] for call in message["tool_calls"]]
    text = tool_format.write([(function["name"], function["arguments"]) for function in functions])
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return kept | {"content": f"{message['content']}{text}"}


OWN_ID = "own_id"  # key of a call's id as the model has written it; no template sees the key

SENT, SHORT, NAMED, IN_TURN = "sent", "short", "named", "in turn"
ID_FORMS = (SENT, SHORT, NAMED)
"""Ids of calls: as the client sends them; nine letters and digits (Mistral); name and number (Kimi K2).

IN_TURN, name and number within the turn, is for templates that write calls so whatever their ids are.
"""


def number_name(name: str, number: int) -> str:
    """Return an id of a tool's name and a call's number."""
    return f"functions.{name}:{number}"


def with_ids(messages: abc.Iterable[TemplateMessage], form: str) -> list[TemplateMessage]:
    """Return messages with their calls' ids in a form, or as the model has written them (`with_own_ids`)."""
    renamed: list[TemplateMessage] = []
    ids: dict[str, str] = {}  # of the calls whose results follow
    num_calls = 0
    for message in messages:
        if message["role"] == "tool":
            message = message | {"tool_call_id": ids.get(message["tool_call_id"], message["tool_call_id"])}
        elif "tool_calls" in message:
            ids, calls = {}, []
            for place, call in enumerate(message["tool_calls"]):
                number = place if form == IN_TURN else num_calls
                in_form = _id_in_form(call["id"], form, number_name(call["function"]["name"], number))
                ids[call["id"]] = call.get(OWN_ID, in_form)
                calls.append({"type": "function", "id": ids[call["id"]], "function": call["function"]})
                num_calls += 1
            message = message | {"tool_calls": calls}
        renamed.append(message)
    return renamed


def with_own_ids(message: TemplateMessage, ids: abc.Sequence[str]) -> TemplateMessage:
    """Return an answer of which the template shows the ids that the model itself has given its calls."""
    calls = zip(message["tool_calls"], ids, strict=True)
    return message | {"tool_calls": [call | {OWN_ID: own_id} for call, own_id in calls]}


def _id_in_form(client_id: str, form: str, named: str) -> str:
    if form == SENT:
        return client_id
    return (
        named
        if form in (NAMED, IN_TURN)
        else hashlib.sha256(client_id.encode("utf-8", "replace")).hexdigest()[:9]
    )
