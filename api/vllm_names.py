"""The server's metrics under vLLM's names, for dashboards and alerts that were made for vLLM.

The names and labels are those that vLLM's own dashboards ask for (vllm-project/vllm, examples/observability).
What has no counterpart here (speculation, LoRA, transfers of KV) is left out.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

OWN_PREFIX = "pensieve_"
PREFIX = "vllm:"

NAMES: dict[str, tuple[str, ...]] = {
    "num_requests_running": ("num_requests_running",),
    "num_requests_waiting": ("num_requests_waiting", "num_requests_waiting_by_reason"),
    "kv_cache_usage_perc": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "engine_up": ("engine_sleep_state",),
    "prompt_tokens": ("prompt_tokens",),
    "prompt_tokens_by_source": ("prompt_tokens_by_source",),
    "generation_tokens": ("generation_tokens",),
    "prefix_cache_queries": ("prefix_cache_queries",),
    "prefix_cache_hits": ("prefix_cache_hits", "prompt_tokens_cached"),
    "preemptions": ("num_preemptions",),
    "request_success": ("request_success",),
    "time_to_first_token_seconds": ("time_to_first_token_seconds",),
    "inter_token_latency_seconds": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "request_time_per_output_token_seconds": ("request_time_per_output_token_seconds",),
    "e2e_request_latency_seconds": ("e2e_request_latency_seconds",),
    "request_queue_time_seconds": ("request_queue_time_seconds",),
    "request_prefill_time_seconds": ("request_prefill_time_seconds",),
    "request_decode_time_seconds": ("request_decode_time_seconds",),
    "request_prompt_tokens": ("request_prompt_tokens",),
    "request_generation_tokens": ("request_generation_tokens", "request_max_num_generation_tokens"),
}
"""vLLM's names of each metric; the second ones are older, or the same number in another sense."""

FIXED_LABELS = {
    "num_requests_waiting_by_reason": {"reason": "capacity"},
    "engine_sleep_state": {"sleep_state": "awake"},
}
"""What vLLM tells apart by a label, and of which this server has one kind."""

REASONS = {"tool_use": "stop", "stop_sequence": "stop"}
"""An answer that ends with a call, or at a stop sequence, has stopped in vLLM's words."""

SOURCES = {"computed": "local_compute", "hot": "local_cache_hit", "disk": "external_kv_transfer"}

ALL_REASONS = ("stop", "length", "abort", "error")
"""vLLM has each from its start, so that a share of errors is a number before the first error."""


class WithVllmNames(Collector):
    """Each metric of a registry, and after it the same under vLLM's names."""

    def __init__(self, own: Collector, model: str) -> None:
        self._own = own
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterable[Metric]:
        """Yield metrics; reads the registry once."""
        for metric in self._own.collect():
            yield metric
            for name in NAMES.get(metric.name.removeprefix(OWN_PREFIX), ()):
                yield self._renamed(metric, name)

    def _renamed(self, metric: Metric, name: str) -> Metric:
        """Return a metric under another name: labels that vLLM does not have are summed over."""
        renamed = Metric(PREFIX + name, metric.documentation, metric.type)
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for suffix, labels, value in self._samples(metric, name):
            key = PREFIX + name + suffix, tuple((self._labels | labels).items())
            sums[key] = sums.get(key, 0) + value
        for (sample, pairs), value in sums.items():
            renamed.add_sample(sample, dict(pairs), value)
        return renamed

    def _samples(self, metric: Metric, name: str) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield each sample's suffix, its labels as vLLM has them, and its value."""
        if name == "request_success":
            for reason in ALL_REASONS:
                yield "_total", {"finished_reason": reason}, 0
        for sample in metric.samples:
            suffix = sample.name.removeprefix(metric.name)
            if suffix == "_created":
                continue
            if name == "engine_sleep_state" and not sample.value:
                continue  # a given-up engine is down, for vLLM's board of states: it does not sleep
            labels = dict(FIXED_LABELS.get(name, {}))
            if "le" in sample.labels:
                labels["le"] = sample.labels["le"]
            if "finished_reason" in sample.labels:
                reason = sample.labels["finished_reason"]
                labels["finished_reason"] = REASONS.get(reason, reason)
            if "source" in sample.labels:
                labels["source"] = SOURCES[sample.labels["source"]]
            yield suffix, labels, sample.value
