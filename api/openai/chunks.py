"""An answer's output events in OpenAI's form: chunks of a stream, or one completion. No I/O."""

import copy
import secrets
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

from ...scheduler.queue_forecast import Outlook
from ..errors import ApiError, openai_error_body
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
)
from ..output.answer import Answer, StopReason, Usage
from ..output.message_events import compact_json
from .logprob_bodies import ChatLogprobs, CompletionLogprobs, Logprobs

FINISH_REASONS: dict[StopReason, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}

PING = ": ping\n\n"  # a comment, because this API has no ping event
DONE = "data: [DONE]\n\n"


def chunk_text(chunk: Mapping[str, object]) -> str:
    """Return one chunk as a server-sent event."""
    return f"data: {compact_json(chunk)}\n\n"


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return the usage in OpenAI's form, in which prompt_tokens includes the prompt's cached part."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.num_thinking_tokens},
    }


def join_choices(bodies: Iterable[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Return one body with the choices of several. usage: of all of them."""
    bodies = list(bodies)
    choices = [body["choices"][0] | {"index": index} for index, body in enumerate(bodies)]
    return bodies[0] | {"choices": choices, "usage": usage_body(usage)}


class Envelope:
    """The fields around the choices of one answer: id, object, created, model."""

    def __init__(self, kind: str, prefix: str, model: str) -> None:
        self._fields = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def body(self, *choices: dict[str, Any], usage: Usage | None = None) -> dict[str, Any]:
        """Return the fields with the choices, and with the usage if it is given."""
        body = self._fields | {"choices": list(choices)}
        return body if usage is None else body | {"usage": usage_body(usage)}


class ChunkWriter:
    """The part of a stream writer that both routes share.

    no_text: a choice's fields for an empty text. no_change: its fields for nothing new.
    """

    no_text: Mapping[str, Any]
    no_change: Mapping[str, Any]

    def __init__(self, envelope: Envelope, include_usage: bool, logprobs: Logprobs | None) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._index = 0
        self._scores: list[ScoredToken] = []  # of tokens whose text has not been written yet
        # Fields that all chunks share are serialised once. If the client asks for usage, it is null in all
        # chunks but the last.
        common = envelope.body() | ({"usage": None} if include_usage else {})
        self._head, _, self._tail = chunk_text(common).rpartition("[]")

    def choices(self, count: int) -> list[Self]:
        """Return writers of `count` choices of one stream, this one first."""
        others = [copy.copy(self) for _ in range(1, count)]
        for index, other in enumerate(others, 1):
            other._index, other._scores = index, []
        return [self, *others]

    def ping(self, _outlook: Outlook | None) -> str:
        """Return a comment."""
        return PING

    def error(self, problem: ApiError, request_id: str) -> str:
        """Return an error as a chunk; the stream then ends without `[DONE]`."""
        return chunk_text(openai_error_body(problem))

    def scored(self, **choice: Any) -> str:
        """Return a chunk with the log-probabilities of the tokens since the last scored chunk."""
        scores, self._scores = self._scores, []
        return self.chunk(logprobs=self._logprobs.body(scores) if self._logprobs else None, **choice)

    def chunk(self, **choice: Any) -> str:
        """Return a chunk with one choice."""
        choice = {"index": self._index, "logprobs": None, "finish_reason": None} | choice
        return f"{self._head}[{compact_json(choice)}]{self._tail}"

    def finish(self, answer: Answer) -> str:
        """Return the chunk with the finish reason."""
        ending = self.scored(**self.no_text) if self._scores else ""
        return ending + self.chunk(**self.no_change, finish_reason=FINISH_REASONS[answer.stop_reason])

    def end(self, answer: Answer) -> str:
        """Return the chunk with the finish reason, the usage if it is wanted, and the last line."""
        return self.finish(answer) + self.last(answer.usage)

    def last(self, usage: Usage) -> str:
        """Return the chunk with the usage, if the client asks for it, and the line that ends the stream."""
        return (chunk_text(self._envelope.body(usage=usage)) if self._include_usage else "") + DONE


class ChatStreamWriter(ChunkWriter):
    """Writes the chunks of a chat's answer."""

    no_text, no_change = MappingProxyType({"delta": {"content": ""}}), MappingProxyType({"delta": {}})

    def __init__(
        self,
        model: str,
        include_usage: bool,
        logprobs: ChatLogprobs | None = None,
        omits_thoughts: bool = False,
    ) -> None:
        super().__init__(Envelope("chat.completion.chunk", "chatcmpl", model), include_usage, logprobs)
        self._omits_thoughts = omits_thoughts
        self._num_calls = 0

    def start(self, _usage: Usage) -> str:
        """Return the chunk that names the role."""
        return self.chunk(delta={"role": "assistant", "content": ""})

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the chunks for the answer's next output events."""
        events = list(events)
        self._scores += scores_of(events)
        return "".join(self._event(event) for event in events)

    def _event(self, event: OutputEvent) -> str:
        match event:
            case TextDelta():
                return self.scored(delta={"content": event.text})
            case ThinkingDelta():
                return "" if self._omits_thoughts else self.chunk(delta={"reasoning_content": event.text})
            case ToolCallStart():
                self._num_calls += 1
                return self._call(call_body(event))
            case ArgumentsDelta():
                return self._call({"function": {"arguments": event.json}})
            case ToolCallEnd() | ScoredToken() | ServerToolStart() | ServerToolResult():
                return ""

    def _call(self, fields: dict[str, Any]) -> str:
        return self.chunk(delta={"tool_calls": [{"index": self._num_calls - 1} | fields]})


class ChatBodyBuilder:
    """Builds a chat's answer that is sent whole."""

    def __init__(
        self, model: str, logprobs: ChatLogprobs | None = None, omits_thoughts: bool = False
    ) -> None:
        self._omits_thoughts = omits_thoughts
        self._envelope = Envelope("chat.completion", "chatcmpl", model)
        self._logprobs = logprobs
        self._scores: list[ScoredToken] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""
        for event in events:
            match event:
                case TextDelta():
                    self._texts.append(event.text)
                case ThinkingDelta():
                    self._thoughts.append(event.text)
                case ToolCallStart():
                    self._calls.append(call_body(event))
                case ArgumentsDelta():
                    self._calls[-1]["function"]["arguments"] += event.json
                case ScoredToken():
                    self._scores.append(event)
                case ToolCallEnd() | ServerToolStart() | ServerToolResult():
                    pass  # this API's requests name no tools that the server runs

    def message(self, answer: Answer) -> dict[str, Any]:
        """Return the completion of the ended answer."""
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._thoughts and not self._omits_thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._calls:
            message |= {"content": text or None, "tool_calls": self._calls}
        reason = FINISH_REASONS[answer.stop_reason]
        logprobs = self._logprobs.body(self._scores) if self._logprobs else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return self._envelope.body(choice, usage=answer.usage)


class CompletionStreamWriter(ChunkWriter):
    """Writes the chunks of a completion."""

    no_text = no_change = MappingProxyType({"text": ""})

    def __init__(self, model: str, include_usage: bool, logprobs: CompletionLogprobs | None = None) -> None:
        super().__init__(Envelope("text_completion", "cmpl", model), include_usage, logprobs)

    def start(self, _usage: Usage) -> str:
        """Return an empty chunk, which shows the client that the answer begins."""
        return self.chunk(text="")

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the chunks for the answer's next output events."""
        events = list(events)
        self._scores += scores_of(events)
        return "".join(self.scored(text=event.text) for event in events if isinstance(event, TextDelta))


class CompletionBodyBuilder:
    """Builds a completion that is sent whole."""

    def __init__(self, model: str, logprobs: CompletionLogprobs | None = None) -> None:
        self._envelope = Envelope("text_completion", "cmpl", model)
        self._logprobs = logprobs
        self._scores: list[ScoredToken] = []
        self._texts: list[str] = []

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""
        events = list(events)
        self._scores += scores_of(events)
        self._texts += [event.text for event in events if isinstance(event, TextDelta)]

    def message(self, answer: Answer) -> dict[str, Any]:
        """Return the completion of the ended answer."""
        reason = FINISH_REASONS[answer.stop_reason]
        logprobs = self._logprobs.body(self._scores) if self._logprobs else None
        choice = {"index": 0, "text": "".join(self._texts), "logprobs": logprobs, "finish_reason": reason}
        return self._envelope.body(choice, usage=answer.usage)


def scores_of(events: Iterable[OutputEvent]) -> list[ScoredToken]:
    """Return the scored tokens among some output events."""
    return [event for event in events if isinstance(event, ScoredToken)]


def call_body(call: ToolCallStart) -> dict[str, Any]:
    """Return a tool call in OpenAI's form, without any text of its arguments yet."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
