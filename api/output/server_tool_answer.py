"""An answer whose tools the server runs itself: the model's calls, what they gave, and how it goes on.

For the client this is one answer, as in Anthropic's API. For the model each of its rounds is an answer of
its own, to a conversation that ends with the results of the round before.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from ...scheduler.exceptions import QueueFull
from ...scheduler.queue_forecast import Outlook
from ..formats.output_events import OutputEvent, ServerToolResult, ServerToolStart, ToolCallStart
from ..schema import AssistantMessage, Message, MessagesRequest, ToolChoice, UserMessage
from ..server_rounds import SERVER_PREFIX
from ..web_search import SearchCommand
from .answer import Answer, StopReason, Usage
from .message_events import MessageBodyBuilder
from .server_tool_calls import ServerTools, ToolOutcome

MAX_TRIES = 5  # to queue a round
GoOn = Callable[[MessagesRequest], Awaitable[Answer]]
"""Begins the answer to a conversation that has grown."""


class ServerToolAnswer:
    """One answer of several rounds; see Answer."""

    def __init__(self, first: Answer, body: MessagesRequest, tools: ServerTools, go_on: GoOn) -> None:
        self._first = self._answer = first
        self._body = body
        self._tools = tools
        self._go_on = go_on
        self._round = MessageBodyBuilder(body.model)
        self._before: list[Usage] = []  # of the rounds that have ended
        self._spent: set[str] = set()  # tools that may not be called again
        self._outcomes: list[ToolOutcome] = []  # of the calls after which the next round has not begun
        self._num_searches = 0
        self._is_over = False
        self._is_cut = False

    @property
    def usage(self) -> Usage:
        """The usage of all rounds so far."""
        now = self._answer.usage
        for usage in self._before:
            now += usage
        return replace(now, num_searches=self._num_searches)

    @property
    def outlook(self) -> Outlook | None:
        """How far the round under way is from its first token; None once it has it, or has ended."""
        return self._answer.outlook

    @property
    def headers(self) -> dict[str, str]:
        """Headers that say what was cached of the first round's prompt."""
        return self._first.headers

    @property
    def stop_reason(self) -> StopReason:
        """Why the last round ended; valid only after its end."""
        return "max_tokens" if self._is_cut else self._answer.stop_reason

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer, if one did."""
        return self._answer.stop_sequence

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        return self

    async def __anext__(self) -> list[OutputEvent]:
        """Return the next output events, perhaps none. Raises what an answer raises."""
        if self._is_over:
            raise StopAsyncIteration
        try:
            events = await self._answer.__anext__()
        except StopAsyncIteration:
            return await self._end_round()
        self._round.add(events)
        return [self._shown(event) for event in events]

    def close(self) -> None:
        """End the round under way, in any state."""
        self._answer.close()

    def _shown(self, event: OutputEvent) -> OutputEvent:
        if isinstance(event, ToolCallStart) and self._tools.find(event.name) is not None:
            return ServerToolStart(event.name, _server_id(event.id))
        return event

    async def _end_round(self) -> list[OutputEvent]:
        """Run the round's calls, and begin the next round unless the client's own tools are called.

        A reader that is cancelled meanwhile leaves the calls that have run and the round to the next reader.
        """
        content = self._round.message(self._answer)["content"]
        calls = [block for block in content if block["type"] == "tool_use"]
        own = [call for call in calls if self._tools.find(call["name"]) is not None]
        if not own or self._answer.stop_reason != "tool_use":
            raise StopAsyncIteration
        self._answer.close()  # the round's time ends before that of the tools begins
        for call in own[len(self._outcomes) :]:
            self._outcomes.append(await self._run(call))
        outcomes = self._outcomes
        num_left = self._body.max_tokens - self.usage.output_tokens
        self._is_cut = len(own) == len(calls) and num_left < 1
        self._is_over = len(own) < len(calls) or self._is_cut
        if not self._is_over:
            results = [
                {"type": "tool_result", "tool_use_id": call["id"], "content": outcome.shown}
                for call, outcome in zip(own, outcomes, strict=True)
            ]
            await self._begin_round(content, results, num_left)
        self._outcomes = []
        return [
            ServerToolResult(_server_id(call["id"]), self._tools.result_type(call["name"]), outcome.content)
            for call, outcome in zip(own, outcomes, strict=True)
        ]

    async def _run(self, call: dict[str, Any]) -> ToolOutcome:
        outcome = await self._tools.run(call["name"], call["input"])
        self._num_searches += outcome.is_search
        if outcome.is_last:
            self._spent.add(call["name"])
        return outcome

    async def _begin_round(self, content: list[Any], results: list[Any], num_left: int) -> None:
        said: list[Message] = [
            AssistantMessage.model_validate({"role": "assistant", "content": content}),
            UserMessage.model_validate({"role": "user", "content": results}),
        ]
        names = [tool.name for tool in self._body.tools or () if tool.name not in self._spent]
        one_call = self._body.tool_choice is not None and self._body.tool_choice.disable_parallel_tool_use
        choice = ToolChoice(type="auto", names=names, disable_parallel_tool_use=one_call)
        grown = self._body.model_copy(
            update={"messages": [*self._body.messages, *said], "tool_choice": choice}
        )
        usage = self._answer.usage
        answer = await self._queued(grown.model_copy(update={"max_tokens": num_left}))
        self._body, self._answer = grown, answer
        self._before.append(usage)
        self._round = MessageBodyBuilder(self._body.model)

    async def _queued(self, body: MessagesRequest) -> Answer:
        """Begin a round. Where the queue is full, what was found so far is not given up at once."""
        for _ in range(MAX_TRIES - 1):
            try:
                return await self._go_on(body)
            except QueueFull as full:
                await asyncio.sleep(full.retry_after_s)
        return await self._go_on(body)


def rounds_of(
    body: MessagesRequest, search: SearchCommand | None, go_on: GoOn
) -> Callable[[Answer], Answer] | None:
    """Return what lets the first round of an answer go on; None for a request without server tools."""
    tools = ServerTools(body, search)
    return None if tools.is_empty else lambda first: ServerToolAnswer(first, body, tools, go_on)


def _server_id(call_id: str) -> str:
    return f"{SERVER_PREFIX}{call_id}"
