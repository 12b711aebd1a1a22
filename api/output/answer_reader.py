"""Reads an answer: tokens from the scheduler in, events out."""

from ...engine.step import TokenLogprobs
from ..formats.output_events import OutputEvent, ScoredToken
from ..protocols import TokenSource
from .parser import OutputParser


class AnswerReader:
    """Feeds the tokens of one stream to the answer's parser."""

    def __init__(self, token_stream: TokenSource, parser: OutputParser) -> None:
        self.token_stream = token_stream
        self.parser = parser
        self.tokens: list[int] = []  # of the answer so far

    async def read(self) -> tuple[int, list[OutputEvent]]:
        """Return the number of new tokens, and the events that have become certain.

        Raises StopAsyncIteration at the end of the stream, EngineFailed on failure.
        """
        tokens = await self.token_stream.__anext__()
        self.tokens += tokens
        logprobs = self.token_stream.logprobs
        events = self._feed_scored(tokens, logprobs) if logprobs else self.parser.feed(tokens)
        return len(tokens), events

    def _feed_scored(self, tokens: list[int], logprobs: list[TokenLogprobs]) -> list[OutputEvent]:
        """Feed tokens one by one, and add a ScoredToken event after each token that is part of the text."""
        events: list[OutputEvent] = []
        for token, found in zip(tokens, logprobs, strict=True):
            was_text = self.parser.in_text
            events += self.parser.feed([token])
            if self.parser.done:
                break
            if was_text and self.parser.in_text:
                events.append(ScoredToken(token, found.logprob, found.top))
        return events
