"""An answer's output events in Anthropic's form: the events of a stream, or one message. No I/O."""

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from ...scheduler.queue_forecast import Outlook
from ..context_edits import EditReport
from ..errors import ApiError, error_body
from ..formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    ScoredToken,
    ServerToolResult,
    ServerToolStart,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
    call_input,
)
from ..formats.thinking_signature import UNSIGNED, seal
from .answer import Answer, Usage

BlockStart = TextDelta | ThinkingDelta | ToolCallStart | ServerToolStart | ServerToolResult
"""Events that open a content block."""

compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def new_message_id() -> str:
    """Return a random id in the style of Anthropic's."""
    return f"msg_{secrets.token_hex(12)}"


def sse(data: Mapping[str, object]) -> str:
    """Return one server-sent event. Claude Code ignores data without an `event:` line."""
    return f"event: {data['type']}\ndata: {compact_json(data)}\n\n"


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return the usage in Anthropic's form."""
    more: dict[str, Any] = {}
    if usage.num_searches:
        more["server_tool_use"] = {"web_search_requests": usage.num_searches}
    if usage.num_thinking_tokens:
        more["output_tokens_details"] = {"thinking_tokens": usage.num_thinking_tokens}
    return more | {
        "input_tokens": usage.input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
    }


def message_body(message_id: str, model: str, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Return a message without its stop reason."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_body(usage),
    }


def edits_body(edits: EditReport | None) -> dict[str, Any]:
    """Return the field that names the edits of the prompt; nothing where the client asks for none."""
    return {} if edits is None else {"context_management": {"applied_edits": list(edits.applied)}}


class MessageStreamWriter:
    """Writes the events of one stream, each content block between its start and its stop.

    omit_thoughts: a thinking block has no text; its signature holds the text. edits: of the prompt, if the
    client asks for any.
    """

    def __init__(self, model: str, omit_thoughts: bool = False, edits: EditReport | None = None) -> None:
        self._model = model
        self._omit_thoughts = omit_thoughts
        self._edits = edits_body(edits)
        self._omitted: list[str] = []  # text of the open thinking block
        self._index = -1  # of the block written last
        self._open: type[OutputEvent] | None = None  # the event that opened the open block

    def start(self, usage: Usage) -> str:
        """Return message_start; its usage is a forecast."""
        message = message_body(new_message_id(), self._model, [], usage)
        return sse({"type": "message_start", "message": message})

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the stream's events for the answer's next output events."""
        return "".join(self._event(event) for event in events)

    def end(self, answer: Answer) -> str:
        """Return the end of the last block, message_delta with the exact usage, and message_stop."""
        delta = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
        ending = {"type": "message_delta", "delta": delta, "usage": usage_body(answer.usage)}
        return self._close_block() + sse(ending | self._edits) + sse({"type": "message_stop"})

    def ping(self, outlook: Outlook | None) -> str:
        """Return a ping; before the first token it has fields that say how far the request is from it.

        queue_position: 1 for the request that starts next, null for one that runs. estimate_s: whole seconds
        until the first token, null where nothing tells.
        """
        if outlook is None:
            return sse({"type": "ping"})
        fields = {
            "queue_position": None if outlook.num_ahead is None else outlook.num_ahead + 1,
            "computed_tokens": outlook.num_computed,
            "prompt_tokens": outlook.num_prompt_tokens,
            "estimate_s": None if outlook.seconds is None else math.ceil(outlook.seconds),
        }
        return sse({"type": "ping", **fields})

    def error(self, problem: ApiError, request_id: str) -> str:
        """Return an error event."""
        return sse(error_body(problem, request_id))

    def _event(self, event: OutputEvent) -> str:
        match event:
            case TextDelta() | ThinkingDelta():
                return self._in_block(event)
            case ToolCallStart() | ServerToolStart() | ServerToolResult():
                return self._close_block() + self._open_block(event)
            case ArgumentsDelta():
                return self._delta("input_json_delta", "partial_json", event.json)
            case ToolCallEnd():
                return self._close_block()
            case ScoredToken():
                return ""  # this API has no log-probabilities

    def _in_block(self, event: TextDelta | ThinkingDelta) -> str:
        """Return a delta of text or thoughts, after the start of its block unless that block is open."""
        start = "" if self._open is type(event) else self._close_block() + self._open_block(event)
        if isinstance(event, ThinkingDelta) and self._omit_thoughts:
            self._omitted.append(event.text)
            return start
        key = "thinking" if isinstance(event, ThinkingDelta) else "text"
        return start + self._delta(f"{key}_delta", key, event.text)

    def _open_block(self, event: BlockStart) -> str:
        self._index += 1
        self._open = type(event)
        empty = empty_block(event)
        return sse({"type": "content_block_start", "index": self._index, "content_block": empty})

    def _delta(self, kind: str, key: str, text: str) -> str:
        # The same text as sse() would return, built in less time: there is one delta for each token.
        delta = f'{{"type":"{kind}","{key}":{compact_json(text)}}}'
        data = f'{{"type":"content_block_delta","index":{self._index},"delta":{delta}}}'
        return f"event: content_block_delta\ndata: {data}\n\n"

    def _close_block(self) -> str:
        if self._open is None:
            return ""
        signed = self._sign() if self._open is ThinkingDelta else ""
        self._open = None
        return signed + sse({"type": "content_block_stop", "index": self._index})

    def _sign(self) -> str:
        signature = seal("".join(self._omitted)) if self._omit_thoughts else UNSIGNED
        self._omitted = []
        return self._delta("signature_delta", "signature", signature)


def empty_block(event: BlockStart) -> dict[str, Any]:
    """Return the content block that an output event opens, still empty unless it comes whole."""
    match event:
        case TextDelta():
            return {"type": "text", "text": ""}
        case ThinkingDelta():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolCallStart():
            return {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
        case ServerToolStart():
            return {"type": "server_tool_use", "id": event.id, "name": event.name, "input": {}}
        case ServerToolResult():
            return {"type": event.kind, "tool_use_id": event.call_id, "content": event.content}


class MessageBodyBuilder:
    """Builds a message that is sent whole; its blocks equal those of the stream."""

    def __init__(self, model: str, omit_thoughts: bool = False, edits: EditReport | None = None) -> None:
        """Parameters: as of MessageStreamWriter."""
        self._model = model
        self._omit_thoughts = omit_thoughts
        self._edits = edits_body(edits)
        self._blocks: list[dict[str, Any]] = []
        self._open: type[OutputEvent] | None = None
        self._arguments: list[str] = []  # fragments of the open call's JSON

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""
        for event in events:
            match event:
                case ToolCallStart() | ServerToolStart() | ServerToolResult():
                    self._open_block(event)
                case ArgumentsDelta():
                    self._arguments.append(event.json)
                case ToolCallEnd():
                    self._blocks[-1]["input"] = call_input(self._arguments)
                    self._arguments = []
                case ScoredToken():
                    pass  # this API has no log-probabilities
                case TextDelta() | ThinkingDelta():
                    if self._open is not type(event):
                        self._open_block(event)
                    self._fill(self._blocks[-1], event)

    def message(self, answer: Answer) -> dict[str, Any]:
        """Return the message of the ended answer."""
        for block in self._blocks if self._omit_thoughts else ():
            if block["type"] == "thinking":
                block |= {"thinking": "", "signature": seal(block["thinking"])}
        body = message_body(new_message_id(), self._model, self._blocks, answer.usage)
        ending = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
        return body | ending | self._edits

    def _open_block(self, event: BlockStart) -> None:
        self._blocks.append(empty_block(event))
        self._open = type(event)

    def _fill(self, block: dict[str, Any], event: TextDelta | ThinkingDelta) -> None:
        if isinstance(event, TextDelta):
            block["text"] += event.text
        else:
            block["thinking"] += event.text
            block["signature"] = UNSIGNED
