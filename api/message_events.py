"""Pieces of an answer to the events of a stream, or to the content of one message. No I/O."""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from .answer import Answer, Usage
from .errors import ApiError, error_body
from .formats.output_events import Arguments, CallEnd, CallStart, Piece, Score, Text, Thinking, call_input
from .formats.thinking_signature import UNSIGNED, seal

compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def new_message_id() -> str:
    """Make an id in the style of Anthropic's."""
    return f"msg_{secrets.token_hex(12)}"


def sse(data: Mapping[str, object]) -> str:
    """Write one event. Claude Code ignores data without an `event:` line."""
    return f"event: {data['type']}\ndata: {compact_json(data)}\n\n"


def message_body(message_id: str, model: str, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Build a message as it is before its end is known."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": asdict(usage),
    }


class EventWriter:
    """Writes the events of one stream, each block between its start and its stop.

    omit_thoughts: show no more of them than that there are some.
    """

    def __init__(self, model: str, omit_thoughts: bool = False) -> None:
        self._model = model
        self._omit_thoughts = omit_thoughts
        self._omitted: list[str] = []  # thoughts of the open block
        self._index = -1  # of the block written last
        self._open: type[Piece] | None = None  # what opened the block that is open

    def start(self, usage: Usage) -> str:
        """Write message_start, with what is known of the usage."""
        message = message_body(new_message_id(), self._model, [], usage)
        return sse({"type": "message_start", "message": message})

    def pieces(self, pieces: Iterable[Piece]) -> str:
        """Write the next parts of the answer."""
        return "".join(self._piece(piece) for piece in pieces)

    def end(self, answer: Answer) -> str:
        """Close the last block and write message_delta, with the exact usage, and message_stop."""
        delta = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
        ending = {"type": "message_delta", "delta": delta, "usage": asdict(answer.usage)}
        return self._close() + sse(ending) + sse({"type": "message_stop"})

    def ping(self) -> str:
        """Write a ping."""
        return sse({"type": "ping"})

    def error(self, problem: ApiError, request_id: str) -> str:
        """Write an error event."""
        return sse(error_body(problem, request_id))

    def _piece(self, piece: Piece) -> str:
        match piece:
            case Text() | Thinking():
                return self._words(piece)
            case CallStart():
                return self._close() + self._start(piece)
            case Arguments():
                return self._delta("input_json_delta", "partial_json", piece.json)
            case CallEnd():
                return self._close()
            case Score():
                return ""  # not of this API

    def _words(self, piece: Text | Thinking) -> str:
        start = "" if self._open is type(piece) else self._close() + self._start(piece)
        if isinstance(piece, Thinking) and self._omit_thoughts:
            self._omitted.append(piece.text)
            return start
        key = "thinking" if isinstance(piece, Thinking) else "text"
        return start + self._delta(f"{key}_delta", key, piece.text)

    def _start(self, piece: Text | Thinking | CallStart) -> str:
        self._index += 1
        self._open = type(piece)
        empty = empty_block(piece)
        return sse({"type": "content_block_start", "index": self._index, "content_block": empty})

    def _delta(self, kind: str, key: str, text: str) -> str:
        # As sse() would, but put together by hand: there is one of these for each token.
        delta = f'{{"type":"{kind}","{key}":{compact_json(text)}}}'
        data = f'{{"type":"content_block_delta","index":{self._index},"delta":{delta}}}'
        return f"event: content_block_delta\ndata: {data}\n\n"

    def _close(self) -> str:
        if self._open is None:
            return ""
        signed = self._sign() if self._open is Thinking else ""
        self._open = None
        return signed + sse({"type": "content_block_stop", "index": self._index})

    def _sign(self) -> str:
        signature = seal("".join(self._omitted)) if self._omit_thoughts else UNSIGNED
        self._omitted = []
        return self._delta("signature_delta", "signature", signature)


def empty_block(piece: Text | Thinking | CallStart) -> dict[str, Any]:
    """Build the block that a piece opens, before anything is in it."""
    match piece:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case CallStart():
            return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}


class ContentWriter:
    """Gathers the content of a message that is sent whole; its blocks equal those of the stream."""

    def __init__(self, model: str, omit_thoughts: bool = False) -> None:
        self._model = model
        self._omit_thoughts = omit_thoughts
        self._blocks: list[dict[str, Any]] = []
        self._open: type[Piece] | None = None
        self._arguments: list[str] = []  # fragments of the open call's

    def add(self, pieces: Iterable[Piece]) -> None:
        """Take the next parts of the answer."""
        for piece in pieces:
            match piece:
                case CallStart():
                    self._start(piece)
                case Arguments():
                    self._arguments.append(piece.json)
                case CallEnd():
                    self._blocks[-1]["input"] = call_input(self._arguments)
                    self._arguments = []
                case Score():
                    pass  # not of this API
                case Text() | Thinking():
                    if self._open is not type(piece):
                        self._start(piece)
                    self._fill(self._blocks[-1], piece)

    def message(self, answer: Answer) -> dict[str, Any]:
        """Build the message, at the answer's end."""
        for block in self._blocks if self._omit_thoughts else ():
            if block["type"] == "thinking":
                block |= {"thinking": "", "signature": seal(block["thinking"])}
        body = message_body(new_message_id(), self._model, self._blocks, answer.usage)
        return body | {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}

    def _start(self, piece: Text | Thinking | CallStart) -> None:
        self._blocks.append(empty_block(piece))
        self._open = type(piece)

    def _fill(self, block: dict[str, Any], piece: Text | Thinking) -> None:
        if isinstance(piece, Text):
            block["text"] += piece.text
        else:
            block["thinking"] += piece.text
            block["signature"] = UNSIGNED
