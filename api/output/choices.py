"""Several answers to one request (OpenAI's `n`): streamed side by side, or sent whole in one body."""

import asyncio
from collections import abc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from ..config import KeepAlive
from .answer import Answer, Usage
from .stream import AnswerStream, EventSender, StreamWriter


class ChoiceWriter(StreamWriter, Protocol):
    """Writes one of a request's answers into the stream of them all."""

    def finish(self, answer: Answer) -> str:
        """Return the events that end the answer, but not the stream."""

    def last(self, usage: Usage) -> str:
        """Return the events that end the stream. usage: of all answers together."""


class ChoicesStream(AnswerStream):
    """Streams several answers side by side."""

    def __init__(
        self,
        start: Callable[[], list[Answer]],
        writers: abc.Sequence[ChoiceWriter],
        keep_alive: KeepAlive,
    ) -> None:
        """writers: one for each answer that `start` queues."""
        super().__init__(start, writers[0], keep_alive)
        self._writers = writers

    def _beginning(self, answers: list[Answer]) -> str:
        pairs = zip(answers, self._writers, strict=True)
        return "".join(writer.start(answer.usage) for answer, writer in pairs)

    async def _send_answers(self, answers: list[Answer], output: EventSender) -> None:
        """Send all answers. When one fails, the others end with it."""
        pairs = zip(answers, self._writers, strict=True)
        tasks = [asyncio.create_task(_send_choice(answer, writer, output)) for answer, writer in pairs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await output.send(self._writers[0].last(total_usage(answers)))


async def _send_choice(answer: Answer, writer: ChoiceWriter, output: EventSender) -> None:
    async for events in answer:
        if text := writer.events(events):
            await output.send(text)
    await output.send(writer.finish(answer))


def total_usage(answers: Iterable[Answer]) -> Usage:
    """Return the usage of several answers to one prompt, which counts once."""
    usages = [answer.usage for answer in answers]
    return replace(
        usages[0],
        output_tokens=sum(usage.output_tokens for usage in usages),
        num_thinking_tokens=sum(usage.num_thinking_tokens for usage in usages),
    )
