"""Prometheus metrics that the API measures; StatsCollector exports the scheduler's.

Names follow those of vLLM and SGLang, with the prefix `pensieve_`. Labels are bounded: no session, no prompt
text.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ..engine.served_model import ServedModel
from ..scheduler.stats import Stats
from .config import MetricsNames
from .errors import ApiError
from .protocols import TokenSource
from .stats_collector import StatsCollector
from .vllm_names import WithVllmNames

Outcome = Literal["stop", "length", "tool_use", "stop_sequence", "abort", "error"]

# fmt: off
TTFT_S = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
          2560)
ITL_S = (.002, .004, .006, .008, .01, .015, .02, .03, .04, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2, 4, 8)
TPOT_S = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5)
E2E_S = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
STAGE_S = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5)
COUNT_TOKENS_S = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1)
CACHED_RATIO = (0, .1, .25, .5, .75, .9, .95, .99, 1)
# fmt: on
NUM_TOKENS = (*(digit * 10**power for power in range(5) for digit in (1, 2, 5)), 100_000, 200_000)

KEY_TOKENS = ("computed", "cached", "generated")
"""Kinds of a key's tokens: of prompts, computed or cached, and of answers."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One server's metrics, in a registry of its own."""

    def __init__(
        self, model: ServedModel, stats: Callable[[], Stats], names: MetricsNames = "pensieve"
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(StatsCollector(model, stats))
        self._model = model.name
        self._exported: Collector = self.registry
        if names == "vllm":
            self._exported = WithVllmNames(self.registry, model.name)
        self._make_counters()
        self._make_histograms()

    def _make_counters(self) -> None:
        self._finished = self._counter("request_success", "Requests that ended", "finished_reason")
        self._cancelled = self._counter("requests_cancelled", "Requests given up", "cause")
        self._rejected = self._counter("requests_rejected", "Requests refused", "code", "reason")
        self._attached = self._counter("resends_attached", "Requests sent again that joined their answer")
        self._tool_calls = self._counter("tool_calls", "Tool calls that models wrote", "result")
        self._key_requests = self._counter("key_requests", "Ended requests of a named API key", "key")
        self._key_tokens = self._counter("key_tokens", "Tokens of a named API key", "key", "kind")
        self._http = self._counter("http_requests", "Responses", "method", "path", "status")

    def _make_histograms(self) -> None:
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From the request's arrival", TTFT_S, "cache"
        )
        itl = self._histogram("inter_token_latency_seconds", "Between two tokens", ITL_S)
        self._itl = itl.labels(self._model)  # looked up once, because it is used for every token
        self._tpot = self._histogram("request_time_per_output_token_seconds", "Mean of a request", TPOT_S)
        self._e2e = self._histogram("e2e_request_latency_seconds", "From arrival to the last token", E2E_S)
        self._queue = self._histogram("request_queue_time_seconds", "From arrival to admission", E2E_S)
        self._prefill = self._histogram("request_prefill_time_seconds", "Admission to first token", E2E_S)
        self._decode = self._histogram("request_decode_time_seconds", "First token to the end", E2E_S)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", NUM_TOKENS)
        self._generated = self._histogram("request_generation_tokens", "Tokens of an answer", NUM_TOKENS)
        self._cached = self._histogram("prompt_cached_ratio", "Share of a prompt in the cache", CACHED_RATIO)
        self._count = self._histogram("count_tokens_seconds", "Time to count a prompt", COUNT_TOKENS_S)
        self._stage = self._histogram("stage_seconds", "Time of a stage before the queue", STAGE_S, "stage")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pensieve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(
            f"pensieve_{name}", text, ("model", *labels), buckets=buckets, registry=self.registry
        )

    def render(self) -> tuple[bytes, str]:
        """Return the text that Prometheus reads, and its media type."""
        return generate_latest(self._exported), CONTENT_TYPE_LATEST

    def response(self, method: str, path: str, status: int) -> None:
        """Count a response. path: the route's template, or "other"; never the client's path."""
        self._http.labels(method if method in METHODS else "other", path, status).inc()

    def rejected(self, error: ApiError) -> None:
        """Count a refused request."""
        self._rejected.labels(error.status, error.reason).inc()

    def resend_attached(self) -> None:
        """Count a request that was sent again, and goes on with the answer under way."""
        self._attached.inc()

    def prompt_built(self, template_s: float, tokenize_s: float) -> None:
        """Observe the times that rendering and tokenising a prompt took."""
        self._stage.labels(self._model, "template").observe(template_s)
        self._stage.labels(self._model, "tokenize").observe(tokenize_s)

    def tokens_counted(self, elapsed_s: float) -> None:
        """Observe the time that a count_tokens request took."""
        self._count.labels(self._model).observe(elapsed_s)

    def first_token(self, token_stream: TokenSource, elapsed_s: float) -> None:
        """Observe a request's first token, `elapsed_s` after the request's arrival."""
        share = token_stream.num_cached_tokens / token_stream.num_prompt_tokens
        cache = "hit" if share >= 0.9 else "partial" if share else "cold"
        self._ttft.labels(self._model, cache).observe(elapsed_s)

    def next_tokens(self, num_tokens: int, elapsed_s: float) -> None:
        """Observe `num_tokens` tokens that came `elapsed_s` after the tokens before them."""
        for _ in range(num_tokens):
            self._itl.observe(elapsed_s / num_tokens)

    def tool_call(self, result: str) -> None:
        """Count a tool call by its ParseResult: ok, repaired or failed."""
        self._tool_calls.labels(result).inc()

    def key_used(self, name: str, token_stream: TokenSource, num_generated: int) -> None:
        """Count an ended request of a named API key, and its tokens."""
        cached = token_stream.num_cached_tokens
        numbers = token_stream.num_prompt_tokens - cached, cached, num_generated
        self._key_requests.labels(name).inc()
        for kind, number in zip(KEY_TOKENS, numbers, strict=True):
            self._key_tokens.labels(name, kind).inc(number)

    def forget_keys(self, names: Iterable[str]) -> None:
        """Forget the numbers of keys that are no longer let in."""
        for name in names:
            with suppress(KeyError):  # it has sent nothing
                self._key_requests.remove(name)
                for kind in KEY_TOKENS:
                    self._key_tokens.remove(name, kind)

    def ended(self, token_stream: TokenSource, num_tokens: int, outcome: Outcome, elapsed_s: float) -> None:
        """Observe an ended request, `elapsed_s` after its arrival, with `num_tokens` sampled tokens."""
        model, now = self._model, time.monotonic()
        self._finished.labels(outcome).inc()
        if outcome == "abort":
            self._cancelled.labels("disconnect").inc()
        self._e2e.labels(model).observe(elapsed_s)
        self._prompt.labels(model).observe(token_stream.num_prompt_tokens)
        self._generated.labels(model).observe(num_tokens)
        admitted, first = token_stream.admitted_s, token_stream.first_token_s
        if admitted is not None:
            self._queue.labels(model).observe(admitted - token_stream.arrival_s)
            self._cached.labels(model).observe(
                token_stream.num_cached_tokens / token_stream.num_prompt_tokens
            )
        if admitted is not None and first is not None:
            self._prefill.labels(model).observe(max(0.0, first - admitted))
            self._decode.labels(model).observe(now - first)
            if num_tokens > 1:
                self._tpot.labels(model).observe((now - first) / (num_tokens - 1))
