"""The two APIs that the fleet speaks: a conversation becomes a request, events become text and usage."""

import json
from collections import abc
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .config import ProtocolName
from .trace import ToolSpec, Trace
from .wire import Event, RequestFailed


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a history."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """A request's tokens as the server counts them; None for a number that the server does not report."""

    prompt: int | None = None  # cached tokens included
    cached: int | None = None
    output: int | None = None

    def updated(self, later: "TokenUsage") -> "TokenUsage":
        """Return these numbers, replaced by those that a later event reports."""
        return TokenUsage(
            self.prompt if later.prompt is None else later.prompt,
            self.cached if later.cached is None else later.cached,
            self.output if later.output is None else later.output,
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """One event's text and numbers."""

    text: str = ""
    usage: TokenUsage = TokenUsage()
    is_end: bool = False


class Api(Protocol):
    """One API of a server."""

    @property
    def path(self) -> str:
        """The endpoint's path."""

    def headers(self, api_key: str) -> dict[str, str]:
        """Return the headers of every request."""

    def body(self, trace: Trace, model: str, history: abc.Sequence[ChatMessage]) -> dict[str, Any]:
        """Return the body of the request for the next answer."""

    def read(self, event: Event) -> Delta:
        """Return an event's text and numbers. Raises RequestFailed for an error event."""


class Anthropic:
    """/v1/messages, as Claude Code uses it."""

    path = "/v1/messages"

    def headers(self, api_key: str) -> dict[str, str]:
        """See Api."""
        return {"x-api-key": api_key, "anthropic-version": "2023-06-01"}

    def body(self, trace: Trace, model: str, history: abc.Sequence[ChatMessage]) -> dict[str, Any]:
        """See Api."""
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
            for tool in trace.tools
        ]
        system = [{"type": "text", "text": trace.system, "cache_control": {"type": "ephemeral"}}]
        return {
            "model": model,
            "messages": [{"role": message.role, "content": message.text} for message in history],
            "max_tokens": trace.output_tokens,
            "temperature": 0,
            "stream": True,
        } | _present(system=system if trace.system else None, tools=tools)

    def read(self, event: Event) -> Delta:
        """See Api."""
        data = _parse(event)
        match data.get("type"):
            case "error":
                raise RequestFailed(str(data["error"].get("message")))
            case "message_start":
                return Delta(usage=self._usage(data["message"].get("usage")))
            case "content_block_delta":
                delta = data["delta"]
                return Delta(delta.get("text") or delta.get("thinking") or delta.get("partial_json") or "")
            case "message_delta":
                return Delta(usage=self._usage(data.get("usage")))
        return Delta(is_end=data.get("type") == "message_stop")

    def _usage(self, usage: dict[str, Any] | None) -> TokenUsage:
        usage = usage or {}
        cached, output = usage.get("cache_read_input_tokens"), usage.get("output_tokens")
        if not usage.get("input_tokens") and not cached:
            # Some servers know the prompt's length only at the end, or report it once.
            return TokenUsage(output=output)
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        return TokenUsage(sum(usage.get(part) or 0 for part in parts), cached, output)


class OpenAI:
    """/v1/chat/completions."""

    path = "/v1/chat/completions"

    def headers(self, api_key: str) -> dict[str, str]:
        """See Api."""
        return {"authorization": f"Bearer {api_key}"}

    def body(self, trace: Trace, model: str, history: abc.Sequence[ChatMessage]) -> dict[str, Any]:
        """See Api."""
        messages = [{"role": message.role, "content": message.text} for message in history]
        head = [{"role": "system", "content": trace.system}] if trace.system else []
        return {
            "model": model,
            "messages": [*head, *messages],
            "max_tokens": trace.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | _present(tools=[_function(tool) for tool in trace.tools])

    def read(self, event: Event) -> Delta:
        """See Api."""
        if event.data == "[DONE]":
            return Delta(is_end=True)
        data = _parse(event)
        if "error" in data:
            raise RequestFailed(str(data["error"]))
        text = "".join(_chat_text(choice.get("delta") or {}) for choice in data.get("choices") or [])
        usage = data.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return Delta(text, TokenUsage(usage.get("prompt_tokens"), cached, usage.get("completion_tokens")))


def make_api(name: ProtocolName) -> Api:
    """Return the API called `name`."""
    return Anthropic() if name == "anthropic" else OpenAI()


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _function(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
    return {"type": "function", "function": function}


def _chat_text(delta: dict[str, Any]) -> str:
    calls = [call.get("function", {}).get("arguments") for call in delta.get("tool_calls") or []]
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    return "".join(part for part in (thought, delta.get("content"), *calls) if part)


def _parse(event: Event) -> dict[str, Any]:
    try:
        data = json.loads(event.data)
    except ValueError as error:
        raise RequestFailed(f"no JSON: {event.data[:100]}") from error
    if not isinstance(data, dict):
        raise RequestFailed(f"no object: {event.data[:100]}")
    return data
