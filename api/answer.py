"""One answer on its way: tokens from the scheduler to pieces of text and tool calls, with its accounts."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from ..engine.step import TokenLogprobs
from .formats.output_events import OutputEvent, ScoredToken
from .metrics import FinishedReason
from .output.parser import OutputParser
from .protocols import TokenSource
from .request_record import RequestRecord

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request. The prompt's length is input plus cache read plus cache creation."""

    input_tokens: int  # prompt tokens that were not in the cache
    cache_read_input_tokens: int
    output_tokens: int  # all that were sampled, marks and the stop token among them
    cache_creation_input_tokens: int = 0  # what is computed is cached anyway, and not told apart


class Answer:
    """Iterate over it for lists of pieces, and `close()` it in a `finally`."""

    def __init__(
        self,
        token_stream: TokenSource,
        parser: OutputParser,
        record: RequestRecord,
        is_cut: bool = False,
    ) -> None:
        """is_cut: the context leaves less room than the client has allowed."""
        self._token_stream = token_stream
        self._parser = parser
        self._record = record
        self._is_cut = is_cut
        self._outcome: FinishedReason = "abort"  # until it ends otherwise
        self._ended = False

    @property
    def usage(self) -> Usage:
        """The account so far; the cached part is a look-ahead until the request is admitted."""
        cached = self._token_stream.num_cached_tokens
        return Usage(self._token_stream.num_prompt_tokens - cached, cached, self._record.num_generated)

    @property
    def stop_reason(self) -> StopReason:
        """Why it ended. Only after its end."""
        reasons: dict[FinishedReason, StopReason] = {
            "length": "model_context_window_exceeded" if self._is_cut else "max_tokens",
            "tool_use": "tool_use",
            "stop_sequence": "stop_sequence",
        }
        return reasons.get(self._outcome, "end_turn")

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended it, if one did."""
        return self._parser.stop_sequence

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        return self

    async def __anext__(self) -> list[OutputEvent]:
        """Return the next pieces, perhaps none. Raises EngineFailed."""
        if self._ended:
            raise StopAsyncIteration
        try:
            tokens = await self._token_stream.__anext__()
        except StopAsyncIteration:
            return self._finish()
        except Exception:
            self._outcome = "error"
            raise
        self._record.generated(len(tokens))
        logprobs = self._token_stream.logprobs
        events = self._feed_scored(tokens, logprobs) if logprobs else self._parser.feed(tokens)
        return events + self._finish() if self._parser.done else events

    def _feed_scored(self, tokens: list[int], logprobs: list[TokenLogprobs]) -> list[OutputEvent]:
        """Feed tokens one by one, each with its log-probabilities where it is a part of the text."""
        events: list[OutputEvent] = []
        for token, found in zip(tokens, logprobs, strict=True):
            was_text = self._parser.in_text
            events += self._parser.feed([token])
            if self._parser.done:
                break
            if was_text and self._parser.in_text:
                events.append(ScoredToken(token, found.logprob, found.top))
        return events

    def close(self) -> None:
        """End the request within one step, whatever state it is in, and close its record."""
        self._token_stream.cancel()
        self._record.close(self._outcome, self._parser.results)

    def _finish(self) -> list[OutputEvent]:
        self._ended = True
        events = self._parser.finish()
        self._outcome = self._why()
        if self._token_stream.finish_reason == "stop":
            self._record.num_generated += 1  # the stop token: sampled, but not among the tokens read
        return events

    def _why(self) -> FinishedReason:
        if self._parser.stop_sequence is not None:
            return "stop_sequence"
        if not self._parser.done and self._token_stream.finish_reason == "length":
            return "length"
        return "tool_use" if self._parser.has_calls else "stop"
