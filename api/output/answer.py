"""One answer: the scheduler's tokens as output events, and the answer's usage and stop reason."""

from collections import abc
from collections.abc import AsyncIterator, Callable
from dataclasses import astuple, dataclass
from typing import Literal, Protocol

from ...scheduler.queue_forecast import Outlook
from ..formats.output_events import OutputEvent, ToolCallStart
from ..metrics import Outcome
from ..reports.request_report import Ending, RequestReport
from .answer_reader import AnswerReader
from .request_record import RequestRecord

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request. Input, cache read and cache creation add up to the prompt."""

    input_tokens: int  # prompt tokens that were not in the prefix cache
    cache_read_input_tokens: int
    output_tokens: int  # all sampled tokens, those of tags and the stop token included
    cache_creation_input_tokens: int = 0  # every computed token is cached, so they are counted as input
    num_thinking_tokens: int = 0  # of the output: sampled in steps that began while thoughts were open
    num_searches: int = 0  # that the server has made of the web

    @property
    def num_prompt_tokens(self) -> int:
        """All tokens of the prompt."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


KeepReply = Callable[[abc.Sequence[int], abc.Sequence[OutputEvent]], None]
"""Takes the tokens and the output events of an answer, for later prompts."""


class Answer(Protocol):
    """An async iterator over lists of output events. Call `close()` in a `finally`."""

    @property
    def usage(self) -> Usage:
        """The usage so far; its cached part is a forecast until the request is admitted."""

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that say what was cached of the prompt, as far as is known by now."""

    @property
    def stop_reason(self) -> StopReason:
        """Why the answer ended; valid only after its end."""

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer, if one did."""

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        """Return the answer."""

    async def __anext__(self) -> list[OutputEvent]:
        """Return the next output events, perhaps none. Raises EngineFailed or EngineDown."""

    def close(self) -> None:
        """End the answer, in any state. Further calls do nothing."""


class SampledAnswer:
    """An answer to one request of the scheduler."""

    def __init__(
        self,
        reader: AnswerReader,
        record: RequestRecord,
        is_cut: bool = False,
        keep: KeepReply | None = None,
        report: RequestReport | None = None,
    ) -> None:
        """is_cut: the context leaves room for fewer tokens than the client's max_tokens.

        keep: is called once with an answer that a stop token has ended, or max_tokens within its text.
        report: None for the further answers to one request.
        """
        self._reader = reader
        self._token_stream, self._parser = reader.token_stream, reader.parser
        self._record = record
        self._is_cut = is_cut
        self._keep = keep
        self._report = report
        self._events: list[OutputEvent] = []  # all so far, where somebody asks for them
        self._calls: set[str] = set()  # names of the tools called so far
        self._outcome: Outcome = "abort"  # until the answer ends or fails
        self._ended = False
        self._num_thinking_tokens = 0

    @property
    def usage(self) -> Usage:
        """The usage so far; its cached part is a forecast until the request is admitted."""
        cached = self._token_stream.num_cached_tokens
        return Usage(
            self._token_stream.num_prompt_tokens - cached,
            cached,
            self._record.num_generated,
            num_thinking_tokens=self._num_thinking_tokens,
        )

    @property
    def outlook(self) -> Outlook | None:
        """How far the request is from its first token; None once it has it, or has ended."""
        return self._token_stream.outlook

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that say what was cached of the prompt, as far as is known by now."""
        return self._report.headers if self._report is not None else {}

    @property
    def stop_reason(self) -> StopReason:
        """Why the answer ended; valid only after its end."""
        reasons: dict[Outcome, StopReason] = {
            "length": "model_context_window_exceeded" if self._is_cut else "max_tokens",
            "tool_use": "tool_use",
            "stop_sequence": "stop_sequence",
        }
        return reasons.get(self._outcome, "end_turn")

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer, if one did."""
        return self._parser.stop_sequence

    def __aiter__(self) -> AsyncIterator[list[OutputEvent]]:
        return self

    async def __anext__(self) -> list[OutputEvent]:
        """Return the next output events, perhaps none. Raises EngineFailed or EngineDown."""
        if self._ended:
            raise StopAsyncIteration
        in_thoughts = self._parser.in_thoughts
        try:
            num_tokens, events = await self._reader.read()
        except StopAsyncIteration:
            return self._finish()
        except Exception:
            self._outcome = "error"
            raise
        self._record.generated(num_tokens)
        self._note_calls(events)
        self._num_thinking_tokens += num_tokens if in_thoughts else 0
        if self._keep is not None or self._report is not None:
            self._events += events
        return events + self._finish() if self._parser.done else events

    def close(self) -> None:
        """End the request, in any state, and close its record. Further calls do nothing."""
        self._token_stream.cancel()
        is_broken_off = self._outcome in ("abort", "error")
        calls = self._calls if self._outcome == "tool_use" else ()
        self._token_stream.answered(None if is_broken_off else calls)
        self._record.close(self._outcome, self._parser.results)
        if self._report is not None:
            generated = self._record.num_generated
            self._report.end(Ending(self._outcome, generated, self._reader.tokens, self._events))

    def _finish(self) -> list[OutputEvent]:
        self._ended = True
        is_length = self._token_stream.finish_reason == "length"
        is_cut_off = not self._parser.done and is_length
        is_in_text = is_length and self._parser.in_text
        is_whole = not self._parser.done and (is_in_text or self._token_stream.finish_reason == "stop")
        events = self._parser.finish(cut_off=is_length)  # which ends an open call, and may so be done
        self._note_calls(events)
        self._outcome = self._find_outcome(is_cut_off)
        if self._token_stream.finish_reason == "stop":
            self._record.num_generated += 1  # the stop token, which is sampled but not in the token stream
        self._events += events
        if is_whole and self._keep is not None:
            self._keep(self._reader.tokens, self._events)
        return events

    def _note_calls(self, events: abc.Sequence[OutputEvent]) -> None:
        self._calls |= {event.name for event in events if isinstance(event, ToolCallStart)}

    def _find_outcome(self, is_cut_off: bool) -> Outcome:
        if self._parser.stop_sequence is not None:
            return "stop_sequence"
        if is_cut_off:
            return "length"
        return "tool_use" if self._parser.has_calls else "stop"
