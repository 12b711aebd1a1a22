"""One request's report: its times, its tokens, and how much of its prompt was cached, and why not more."""

import time
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..formats.output_events import OutputEvent
from ..formats.reply_contents import reply_contents
from ..metrics import Outcome
from ..protocols import TokenSource
from .cache_verdict import CacheVerdict, Judgement, NewPrompt, judge
from .prompt_outline import reply_hash
from .recent_prompts import TOKEN_BYTES, PromptTrace, RecentPrompt, RecentPrompts, Sender, unpack
from .round_sums import MAX_ROUNDS, summary_of_rounds

CACHE_HEADER = "x-pensieve-cache"

MAX_SHOWN_CHARS = 200  # of the texts around a difference, each


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What is known of a request before it is queued.

    started_s: time.monotonic() at its arrival. template_s, tokenize_s: seconds.
    """

    request_id: str
    path: str
    sender: Sender
    started_s: float
    template_s: float
    tokenize_s: float


class Ending(NamedTuple):
    """The end of an answer. num_generated: as its usage counts them. tokens: all that were read."""

    outcome: Outcome
    num_generated: int
    tokens: abc.Sequence[int]
    events: abc.Sequence[OutputEvent]


@dataclass(frozen=True, slots=True)
class ReportedProgress:
    """How far a request has come. restore_ms to decode_ms: None for what has not begun."""

    num_cached: int
    num_at_arrival: int  # found in memory when the request was queued
    num_from_disk: int
    num_generated: int | None  # None while the request runs
    queue_ms: float | None
    restore_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    total_ms: float


class RequestReport:
    """The report of one request. It holds the request's tokens only until the request ends."""

    def __init__(self, facts: RequestFacts, trace: PromptTrace) -> None:
        self.facts = facts
        self.created_at = time.time()
        self.outcome: Outcome | None = None  # None while the request runs
        self.num_prompt_tokens = len(trace.tokens) // TOKEN_BYTES
        self._judgement = Judgement()
        self._prompt: RecentPrompt | None = RecentPrompt(facts.sender, *trace, self.num_prompt_tokens)
        self._token_stream: TokenSource | None = None
        self._recent: RecentPrompts | None = None
        self._num_generated: int | None = None
        self._last: ReportedProgress | None = None  # once it has ended
        self._later: tuple[RequestReport, ...] = ()

    def begin(self, token_stream: TokenSource, recent: RecentPrompts) -> None:
        """Judge the request, which has just been queued, and remember its prompt."""
        prompt = self._prompt
        assert prompt is not None, "a report begins once"
        new = NewPrompt(
            prompt.sender,
            prompt.outline,
            prompt.tokens,
            token_stream.num_cached_at_arrival,
            token_stream.num_matched_at_arrival,
        )
        relatives = recent.relatives(new.sender, new.outline, new.tokens)
        self._judgement = judge(new, relatives)
        recent.add(prompt, relatives)
        self._token_stream, self._recent = token_stream, recent

    def end(self, ending: Ending) -> None:
        """Note the end of the request, and its answer's. Further calls do nothing."""
        prompt, token_stream, recent = self._prompt, self._token_stream, self._recent
        if prompt is None or token_stream is None or recent is None:
            return
        self._num_generated = ending.num_generated
        self._last = self.progress
        self.outcome = ending.outcome
        self._prompt = self._token_stream = self._recent = None
        prompt.is_running = False
        if token_stream.first_token_s is not None or ending.outcome not in ("abort", "error"):
            reply = reply_contents(ending.events)
            recent.end(prompt, ending.tokens, reply_hash(reply) if reply else None)

    @property
    def progress(self) -> ReportedProgress:
        """How far the request has come; how far it came, once it has ended."""
        if self._last is not None:
            return self._last
        now, stream = time.monotonic(), self._token_stream
        total_ms = _milliseconds(self.facts.started_s, now) or 0.0
        if stream is None:
            return ReportedProgress(0, 0, 0, None, None, None, None, None, total_ms)
        admitted_s, first_s, restore_s = stream.admitted_s, stream.first_token_s, stream.restore_s
        ended_queue_s = now if admitted_s is None else admitted_s
        return ReportedProgress(
            stream.num_cached_tokens,
            stream.num_cached_at_arrival,
            stream.num_disk_tokens,
            self._num_generated,
            _milliseconds(stream.arrival_s, ended_queue_s if restore_s is None else restore_s),
            _milliseconds(restore_s, ended_queue_s),
            _milliseconds(admitted_s, now if first_s is None else first_s),
            _milliseconds(first_s, now),
            total_ms,
        )

    @property
    def verdict(self) -> CacheVerdict:
        """Why no more of the prompt was found, as far as is known by now."""
        return self._judgement.verdict(self.progress.num_cached)

    @property
    def headers(self) -> dict[str, str]:
        """The response's header that says how much of the prompt was found, as far as is known by now."""
        fields = [f"{self.progress.num_cached}/{self.num_prompt_tokens}"]
        fields += [f"{name}={count}" for name, count in self._sources(self.progress).items()]
        verdict = self.verdict
        if self._judgement.num_awaited and not self._was_admitted:
            fields.append(f"awaited={self._judgement.num_awaited}")
        fields.append(f"why={verdict.cause}")
        fields += [f"at={verdict.place}"] if verdict.place is not None else []
        fields += [f"in={verdict.part}"] if verdict.part is not None else []
        return {CACHE_HEADER: "; ".join(fields)}

    def add_round(self, report: "RequestReport") -> None:
        """Add the report of a later round of the same answer, which goes on after tools of the server."""
        if len(self._later) < MAX_ROUNDS - 1:
            self._later += (report,)

    @property
    def num_rounds(self) -> int:
        """Rounds of the answer that have begun: more than one where tools of the server were called."""
        return 1 + len(self._later)

    def summary(self) -> dict[str, Any]:
        """Return the report without any text of the request; of several rounds, their sums and each."""
        if not self._later:
            return self._own_summary()
        last = self._later[-1]
        started_ms = (last.facts.started_s - self.facts.started_s) * 1000
        rounds = [report._own_summary() for report in (self, *self._later)]
        return summary_of_rounds(rounds, round(started_ms + last.progress.total_ms, 3))

    def _own_summary(self) -> dict[str, Any]:
        progress, facts = self.progress, self.facts
        verdict = self._judgement.verdict(progress.num_cached)
        return {
            "type": "request",
            "id": facts.request_id,
            "created_at": round(self.created_at, 3),
            "path": facts.path,
            "session": facts.sender.session or None,
            "outcome": self.outcome,
            "tokens": {
                "prompt": self.num_prompt_tokens,
                "found": progress.num_cached,
                **self._sources(progress),
                "generated": progress.num_generated,
            },
            "times_ms": {
                "render": round(facts.template_s * 1000, 3),
                "tokenise": round(facts.tokenize_s * 1000, 3),
                "queue": progress.queue_ms,
                "restore": progress.restore_ms,
                "prefill": progress.prefill_ms,
                "decode": progress.decode_ms,
                "total": progress.total_ms,
            },
            "cache": {
                "why": verdict.cause,
                "at": verdict.place,
                "in": verdict.part,
                "found_at_arrival": progress.num_at_arrival,
                "awaited_at_arrival": self._judgement.num_awaited,
            },
        }

    def details(self, decode: Callable[[list[int]], str]) -> dict[str, Any]:
        """Return the summary and the texts around the difference. decode: returns the text of tokens."""
        found = self.verdict.difference
        if found is None:
            return self.summary() | {"diff": None}
        texts = {name: decode(unpack(tokens)) for name, tokens in found._asdict().items()}
        shown = {
            name: text[-MAX_SHOWN_CHARS:] if name == "before" else text[:MAX_SHOWN_CHARS]
            for name, text in texts.items()
        }
        return self.summary() | {"diff": shown}

    @property
    def _was_admitted(self) -> bool:
        return self.progress.prefill_ms is not None

    def _sources(self, progress: ReportedProgress) -> dict[str, int]:
        """Return how many of the tokens found came from where."""
        later = max(0, progress.num_cached - progress.num_at_arrival)
        disk = min(later, progress.num_from_disk)
        return {"memory": progress.num_cached - later, "disk": disk, "twin": later - disk}


def _milliseconds(begin_s: float | None, end_s: float) -> float | None:
    return None if begin_s is None else round(max(0.0, end_s - begin_s) * 1000, 3)
