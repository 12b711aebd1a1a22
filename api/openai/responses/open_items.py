"""The item of an answer that is being written, one class for each kind, and the events that stream it."""

import secrets
from collections.abc import Iterator
from typing import Any, Literal

from ...formats.output_events import ToolCallStart, call_input, read_object
from ...formats.thinking_signature import seal
from .client_tools import ClientTool
from .input_items import CALL_ACTIONS

Event = dict[str, Any]
"""An event of a response's stream, without its sequence number."""

Status = Literal["completed", "incomplete"]


def new_id(prefix: str) -> str:
    """Return a random id in the style of OpenAI's."""
    return f"{prefix}_{secrets.token_hex(16)}"


class OpenItem:
    """An item and its place among the items of the answer."""

    def __init__(self, index: int, item: dict[str, Any]) -> None:
        """item: the item's fields except its status, the id first."""
        self.item = item | {"status": "in_progress"}
        self._index = index
        self._fragments: list[str] = []

    def start(self) -> Iterator[Event]:
        """Yield the events before the item's first text."""
        yield {"type": "response.output_item.added", "output_index": self._index, "item": dict(self.item)}

    def add(self, text: str, logprobs: list[Any]) -> Iterator[Event]:
        """Add text; yield the events that stream it. logprobs: of the text's tokens, if they are wanted."""
        self._fragments.append(text)
        yield from ()

    def end(self, status: Status) -> Iterator[Event]:
        """Complete the item; yield the events that end it."""
        self.item |= self._complete("".join(self._fragments)) | {"status": status}
        yield from self._last_events("".join(self._fragments))
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.item}

    def _complete(self, text: str) -> dict[str, Any]:
        """Return the fields that the item's text fills."""
        raise NotImplementedError

    def _last_events(self, text: str) -> Iterator[Event]:
        yield from ()

    def _event(self, kind: str, **fields: Any) -> Event:
        return {
            "type": f"response.{kind}",
            "item_id": self.item["id"],
            "output_index": self._index,
        } | fields


class OpenPart(OpenItem):
    """An item whose text is its only part."""

    part_name = "content_part"
    index_name = "content_index"
    text_name = ""

    def part(self, text: str) -> dict[str, Any]:
        """Return the item's part."""
        return {"type": self.text_name, "text": text}

    def start(self) -> Iterator[Event]:
        """Yield the start of the item and of its part."""
        yield from super().start()
        yield self._event(f"{self.part_name}.added", **{self.index_name: 0, "part": self.part("")})

    def add(self, text: str, logprobs: list[Any]) -> Iterator[Event]:
        """Add text; yield its delta."""
        self._fragments.append(text)
        yield self._event(f"{self.text_name}.delta", **{self.index_name: 0, "delta": text})

    def _last_events(self, text: str) -> Iterator[Event]:
        place = {self.index_name: 0}
        yield self._event(f"{self.text_name}.done", **place, text=text)
        yield self._event(f"{self.part_name}.done", **place, part=self.part(text))


class OpenMessage(OpenPart):
    """A message of the model."""

    text_name = "output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index, {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []})
        self._logprobs: list[Any] = []

    def part(self, text: str) -> dict[str, Any]:
        """Return the message's only part."""
        return super().part(text) | {"annotations": [], "logprobs": list(self._logprobs)}

    def add(self, text: str, logprobs: list[Any]) -> Iterator[Event]:
        """Add text; yield its delta, with the log-probabilities of its tokens."""
        self._logprobs += logprobs
        for event in super().add(text, logprobs):
            yield event | {"logprobs": logprobs}

    def _complete(self, text: str) -> dict[str, Any]:
        return {"content": [self.part(text)]}

    def _last_events(self, text: str) -> Iterator[Event]:
        done, part = super()._last_events(text)
        yield done | {"logprobs": list(self._logprobs)}
        yield part


class OpenThoughts(OpenPart):
    """The model's thoughts, as they are.

    seals: the thoughts are repeated in `encrypted_content`, which clients send back with the item.
    """

    text_name = "reasoning_text"

    def __init__(self, index: int, seals: bool) -> None:
        super().__init__(index, {"id": new_id("rs"), "type": "reasoning", "summary": []})
        self._seals = seals

    def _complete(self, text: str) -> dict[str, Any]:
        return {"content": [self.part(text)]} | ({"encrypted_content": seal(text)} if self._seals else {})


class OpenSummary(OpenThoughts):
    """The model's thoughts, in the place of a summary: for clients that show summaries only."""

    part_name = "reasoning_summary_part"
    index_name = "summary_index"
    text_name = "reasoning_summary_text"

    def part(self, text: str) -> dict[str, Any]:
        """Return the summary's only part."""
        return {"type": "summary_text", "text": text}

    def _complete(self, text: str) -> dict[str, Any]:
        return {"summary": [self.part(text)]} | ({"encrypted_content": seal(text)} if self._seals else {})


class OpenCall(OpenItem):
    """A call. One whose arguments are no JSON object was cut off or broken, and is incomplete."""

    def end(self, status: Status) -> Iterator[Event]:
        """Complete the call; yield the events that end it."""
        try:
            read_object("".join(self._fragments))
        except ValueError:
            status = "incomplete"
        yield from super().end(status)


class OpenFunctionCall(OpenCall):
    """A call of a function."""

    def __init__(self, index: int, call: ToolCallStart, tool: ClientTool | None) -> None:
        """tool: the client's tool that the call names; None where it has no such tool."""
        item = {"id": new_id("fc"), "type": "function_call", "call_id": call.id, "arguments": ""}
        super().__init__(index, item | _names(call, tool))

    def add(self, text: str, logprobs: list[Any]) -> Iterator[Event]:
        """Add a fragment of the arguments; yield its delta."""
        self._fragments.append(text)
        yield self._event("function_call_arguments.delta", delta=text)

    def _complete(self, text: str) -> dict[str, Any]:
        return {"arguments": text}

    def _last_events(self, text: str) -> Iterator[Event]:
        yield self._event("function_call_arguments.done", name=self.item["name"], arguments=text)


class OpenCustomCall(OpenCall):
    """A call of a custom tool: the text of its input is known when the JSON around it has ended."""

    def __init__(self, index: int, call: ToolCallStart, tool: ClientTool) -> None:
        item = {"id": new_id("ctc"), "type": "custom_tool_call", "call_id": call.id, "input": ""}
        super().__init__(index, item | _names(call, tool))

    def _complete(self, text: str) -> dict[str, Any]:
        given = call_input([text]).get("input")
        return {"input": given if isinstance(given, str) else text}

    def _last_events(self, text: str) -> Iterator[Event]:
        yield self._event("custom_tool_call_input.delta", delta=self.item["input"])
        yield self._event("custom_tool_call_input.done", input=self.item["input"])


class OpenActionCall(OpenCall):
    """A call of a tool that has a schema of its own; its arguments are known when their JSON has ended."""

    def __init__(self, index: int, call: ToolCallStart, tool: ClientTool) -> None:
        self._kind = f"{tool.kind}_call"
        item = {"id": new_id(tool.kind), "type": self._kind, "call_id": call.id}
        super().__init__(index, item | self._complete("{}"))

    def _complete(self, text: str) -> dict[str, Any]:
        arguments = call_input([text])
        if self._kind == "tool_search_call":
            return {"execution": "client", "arguments": arguments}
        if self._kind == "local_shell_call":
            arguments = {"type": "exec", "command": [], "env": {}} | arguments
        elif self._kind == "shell_call":
            arguments = {"commands": [], "timeout_ms": None, "max_output_length": None} | arguments
        return {CALL_ACTIONS[self._kind]: arguments}


def open_call(index: int, call: ToolCallStart, tool: ClientTool | None) -> OpenItem:
    """Return the item of a call, of the kind that the client knows the tool by."""
    if tool is None or tool.kind == "function":
        return OpenFunctionCall(index, call, tool)
    return OpenCustomCall(index, call, tool) if tool.kind == "custom" else OpenActionCall(index, call, tool)


def _names(call: ToolCallStart, tool: ClientTool | None) -> dict[str, Any]:
    if tool is None:
        return {"name": call.name}
    return {"name": tool.name} | ({"namespace": tool.namespace} if tool.namespace else {})
