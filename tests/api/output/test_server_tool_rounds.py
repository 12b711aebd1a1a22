"""Rounds of an answer whose tools the server runs, for readers that come and go."""

import asyncio
from collections.abc import AsyncIterator

from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    ServerToolResult,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieve.api.output.answer import Answer, StopReason, Usage
from pensieve.api.output.server_tool_answer import ServerToolAnswer
from pensieve.api.output.server_tool_calls import ServerTools
from pensieve.api.output.shared_answer import SharedAnswer
from pensieve.api.schema import MessagesRequest

HELLO = [{"role": "user", "content": "Which tool mails?"}]
MAIL = {"name": "Mail", "description": "Does mail", "input_schema": {"type": "object"}, "defer_loading": True}


class Round:
    """An answer that calls a tool, or says something and ends."""

    usage = Usage(1, 0, 1)
    outlook = stop_sequence = None
    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, call: str = "") -> None:
        self.stop_reason: StopReason = "tool_use" if call else "end_turn"
        called: list[OutputEvent] = [ToolCallStart(call), ArgumentsDelta('{"query": "mail"}'), ToolCallEnd()]
        self._events: list[list[OutputEvent]] = [called]
        if not call:
            self._events = [[TextDelta("Done.")]]

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        return self

    async def __anext__(self) -> list[OutputEvent]:
        if not self._events:
            raise StopAsyncIteration
        return self._events.pop()

    def close(self) -> None:
        pass


def test_a_reader_that_leaves_between_rounds_leaves_the_round_to_the_next_one() -> None:
    """The next reader's round had the call and its result twice, and made the search twice."""
    name = "tool_search_tool_bm25"
    tools = [{"type": name, "name": name, "max_uses": 1}, MAIL]
    asked = {
        "model": "m",
        "max_tokens": 99,
        "messages": [{"role": "user", "content": "Which tool mails?"}],
        "tools": tools,
    }
    body = MessagesRequest.model_validate(asked)
    grown: list[MessagesRequest] = []

    async def read() -> list[OutputEvent]:
        is_queued = asyncio.Event()

        async def go_on(body: MessagesRequest) -> Answer:
            grown.append(body)
            if len(grown) == 1:
                is_queued.set()
                await asyncio.Event().wait()
            return Round()

        answer = ServerToolAnswer(Round(name), body, ServerTools(body, None), go_on)
        shared = SharedAnswer(answer)
        await shared.wait(0)
        first = asyncio.create_task(shared.wait(3))
        await is_queued.wait()
        first.cancel()
        while not shared.is_over:
            await shared.wait(len(shared.events))
        assert answer.usage.output_tokens == 2
        return shared.events

    found, said = asyncio.run(read())[3:]
    assert isinstance(found, ServerToolResult)
    assert "tool_references" in found.content
    assert said == TextDelta("Done.")
    roles = [[message.role for message in body.messages] for body in grown]
    assert roles == [["user", "assistant", "user"]] * 2
