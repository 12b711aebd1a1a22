"""A response on its way to the client: the events of a stream, or one body. No I/O."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ....scheduler.queue_forecast import Outlook
from ...errors import ApiError, openai_error_body
from ...formats.output_events import OutputEvent
from ...output.answer import Answer, Usage
from ...output.message_events import sse
from ..chunks import FINISH_REASONS
from .open_items import Event, new_id
from .output_items import OutputItems, OutputShape
from .responses_request import ResponsesRequest

Body = dict[str, Any]

Keep = Callable[[Body], None]
"""Takes the body of a response that has ended."""


def usage_body(answer: Answer) -> Body:
    """Return the usage, in which input_tokens includes the prompt's cached part."""
    usage = answer.usage
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_write_tokens": usage.cache_creation_input_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.num_thinking_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.output_tokens,
    }


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The part of a response's body that is known before the answer."""

    fields: Body

    @classmethod
    def of(cls, request: ResponsesRequest) -> "ResponseHead":
        """Make the head of the answer to a request, which repeats the request's settings."""
        given = request.model_dump(
            by_alias=True, exclude_none=True, exclude={"items", "input", "client_metadata"}
        )
        text, reasoning = given.get("text") or {}, given.get("reasoning") or {}
        repeated = (
            "instructions",
            "max_output_tokens",
            "previous_response_id",
            "temperature",
            "top_p",
            "top_logprobs",
        )
        return cls(
            {
                "id": new_id("resp"),
                "object": "response",
                "created_at": int(time.time()),
                "model": request.model,
                "background": request.background,
                "conversation": request.conversation and {"id": request.conversation.id},
                "parallel_tool_calls": request.parallel_tool_calls is not False,
                "tools": given.get("tools", []),
                "tool_choice": given.get("tool_choice", "auto"),
                "text": {"format": text.get("format") or {"type": "text"}},
                "reasoning": {"effort": request.effort, "summary": reasoning.get("summary")},
                "store": request.is_stored,
                "truncation": request.truncation or "disabled",
                "metadata": request.metadata or {},
            }
            | {name: given.get(name) for name in repeated}
        )

    def body(self, status: str, items: list[Body], **fields: Any) -> Body:
        """Return the body of a response."""
        empty = {"error": None, "incomplete_details": None, "usage": None}
        return self.fields | {"status": status, "output": items} | empty | fields

    def ended(self, answer: Answer, items: list[Body]) -> Body:
        """Return the body of an answer that has ended."""
        usage = usage_body(answer)
        if is_cut(answer):
            details = {"reason": "max_output_tokens"}
            return self.body("incomplete", items, incomplete_details=details, usage=usage)
        return self.body("completed", items, usage=usage, completed_at=int(time.time()))


def is_cut(answer: Answer) -> bool:
    """Return whether an answer was cut off at its limit."""
    return FINISH_REASONS[answer.stop_reason] == "length"


class ResponseStreamWriter:
    """Writes the events of one stream, each with its sequence number."""

    def __init__(self, head: ResponseHead, shape: OutputShape, keep: Keep) -> None:
        self._head = head
        self._output = OutputItems(shape)
        self._keep = keep
        self._num_events = 0

    def start(self, _usage: Usage) -> str:
        """Return the events before the first token."""
        body = self._head.body("in_progress", [])
        return self._write({"type": "response.created", "response": body}) + self.ping(None)

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the stream's events for the answer's next output events."""
        return "".join(self._write(event) for event in self._output.add(events))

    def end(self, answer: Answer) -> str:
        """Return the end of the last item, and the event with the whole response."""
        cut = is_cut(answer)
        ending = "".join(
            self._write(event) for event in self._output.close("incomplete" if cut else "completed")
        )
        body = self._head.ended(answer, self._output.items)
        self._keep(body)
        return ending + self._write({"type": f"response.{body['status']}", "response": body})

    def ping(self, _outlook: Outlook | None) -> str:
        """Return an event that says nothing new: Codex's time limit counts events, not comments."""
        return self._write({"type": "response.in_progress", "response": self._head.body("in_progress", [])})

    def error(self, problem: ApiError, request_id: str) -> str:
        """Return the event that reports a failure."""
        return self._write({"type": "response.failed", "response": self._failed(problem)})

    def _failed(self, problem: ApiError) -> Body:
        error: Any = openai_error_body(problem)["error"]
        code = error["code"] or ("server_error" if problem.status >= 500 else error["type"])
        failure = {"code": code, "message": problem.message}
        return self._head.body("failed", self._output.items, error=failure)

    def _write(self, event: Event) -> str:
        numbered = event | {"sequence_number": self._num_events}
        self._num_events += 1
        return sse(numbered)


class BackgroundWriter(ResponseStreamWriter):
    """Writes the events of a response in the background, of which all that happens is kept."""

    def __init__(self, head: ResponseHead, shape: OutputShape, keep: Keep) -> None:
        super().__init__(head, shape, self._keep_last)
        self._keep_response = keep
        self._last: Body | None = None  # the body, once the response has ended
        self._has_begun = False

    @property
    def response_id(self) -> str:
        """The id of the response."""
        return str(self._head.fields["id"])

    def body_now(self, is_waiting: bool) -> Body:
        """Return the body as it is now. is_waiting: the request has not begun to run."""
        status = "queued" if is_waiting and not self._has_begun else "in_progress"
        return self._last or self._head.body(status, self._output.items)

    def start(self, _usage: Usage) -> str:
        """Return the events of a response that is queued."""
        body = self._head.body("queued", [])
        kinds = ("response.created", "response.queued")
        return "".join(self._write({"type": kind, "response": body}) for kind in kinds)

    def events(self, events: Iterable[OutputEvent]) -> str:
        """Return the stream's events for the answer's next output events, the first ones after its begin."""
        begin = "" if self._has_begun else self.ping(None)
        self._has_begun = True
        return begin + super().events(events)

    def error(self, problem: ApiError, request_id: str) -> str:
        """Keep the failed response; return the event that reports its failure."""
        self._keep_last(self._failed(problem))
        return super().error(problem, request_id)

    def cancelled(self, answer: Answer) -> str:
        """Keep the response as far as it has come; return its last events."""
        ending = "".join(self._write(event) for event in self._output.close("incomplete"))
        body = self._head.body("cancelled", self._output.items, usage=usage_body(answer))
        self._keep_last(body)
        return ending + self._write({"type": "response.cancelled", "response": body})

    def _keep_last(self, body: Body) -> None:
        self._last = body
        self._keep_response(body)


class ResponseBuilder:
    """Builds a response that is sent whole; its items equal those of the stream."""

    def __init__(self, head: ResponseHead, shape: OutputShape, keep: Keep) -> None:
        self._head = head
        self._output = OutputItems(shape)
        self._keep = keep

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""
        for _ in self._output.add(events):
            pass

    def message(self, answer: Answer) -> Body:
        """Return the body of the ended answer."""
        for _ in self._output.close("incomplete" if is_cut(answer) else "completed"):
            pass
        body = self._head.ended(answer, self._output.items)
        self._keep(body)
        return body
