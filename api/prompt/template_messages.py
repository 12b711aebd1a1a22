"""Messages as chat templates read them: made, merged and rewritten."""

import json
from collections import abc

from ..formats.tool_calls.plain_format import plain_call, plain_result
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


def merge_users(messages: abc.Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """Join messages of the user that follow one another."""
    merged: list[TemplateMessage] = []
    for message in messages:
        if merged and message["role"] == merged[-1]["role"] == "user":
            merged[-1] = user_turn(f"{merged[-1]['content']}\n{message['content']}")
        else:
            merged.append(message)
    return merged


def without_tools(message: TemplateMessage) -> TemplateMessage:
    """Write a message's calls or result as text, for a template that knows no tools."""
    if message["role"] == "tool":
        return user_turn(plain_result(message["content"]))
    if message["role"] != "assistant":
        return message
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [plain_call(function["name"], function["arguments"]) for function in functions]
    thoughts = {key: message[key] for key in ("reasoning_content",) if key in message}
    return model_turn("\n".join(part for part in (message["content"], *calls) if part)) | thoughts


def with_text_arguments(call: TemplateMessage) -> TemplateMessage:
    """Return a call with its arguments as JSON text."""
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return call | {"function": call["function"] | {"arguments": arguments}}
