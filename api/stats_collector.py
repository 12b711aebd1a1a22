"""Prometheus metrics read from the scheduler's snapshots, and facts about the served model."""

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from .. import __version__
from ..cache.disk.disk_stats import DiskStats
from ..engine.served_model import ServedModel
from ..scheduler.counters import Counters
from ..scheduler.stats import SessionStats, Stats


class StatsCollector(Collector):
    """Reads a fresh snapshot of the scheduler for every scrape."""

    def __init__(self, model: ServedModel, stats: Callable[[], Stats]) -> None:
        self._model = model
        self._stats = stats
        self._started_s = time.monotonic()

    def describe(self) -> Iterator[Metric]:
        """Return no metrics: the registry calls this when the collector registers, and no snapshot is due."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield gauges, counters and facts."""
        stats = self._stats()
        yield from self._gauges(stats)
        yield from self._counters(stats.counters)
        yield self._device_time(stats.sessions)
        if stats.disk is not None:
            yield from self._disk(stats.disk)
        yield from self._facts(stats)

    def _gauges(self, stats: Stats) -> Iterator[Metric]:
        yield self._gauge("num_requests_running", "Requests being computed", stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests in the queue", stats.num_waiting)
        until = "Until the last request in the queue begins, about"
        yield self._gauge("queue_forecast_seconds", until, stats.queue_forecast_s)
        used = stats.blocks_held / max(1, stats.blocks_total)
        usage = GaugeMetricFamily(
            "pensieve_kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1", labels=("model", "tier")
        )
        usage.add_metric((self._model.name, "hot"), used)
        yield usage
        blocks = {"active": stats.blocks_held, "cached": stats.blocks_cached, "free": stats.blocks_free}
        yield self._by_state("kv_blocks", "KV blocks by state", blocks)
        slots = {"active": stats.states_held, "cached": stats.states_cached, "free": stats.states_free}
        yield self._by_state("state_slots", "Slots for recurrent states, by state", slots)
        windows = {
            "active": stats.window_blocks_held,
            "cached": stats.window_blocks_cached,
            "free": stats.window_blocks_free,
        }
        yield self._by_state("window_blocks", "KV blocks of layers that keep their window only", windows)
        sessions = {
            "running": stats.sessions.num_running,
            "waiting": stats.sessions.num_waiting,
            "idle": stats.sessions.num_idle,
        }
        yield self._by_state("num_sessions", "Sessions by what their requests do", sessions)
        yield self._gauge("engine_up", "0 once the engine is given up", stats.engine_error is None)
        yield self._gauge("engine_ready", "0 while /health is not ok", stats.state == "ok")
        yield self._gauge("engine_step_age_seconds", "Of the step under way", stats.current_step_s)
        uptime = time.monotonic() - self._started_s
        yield GaugeMetricFamily("pensieve_uptime_seconds", "Since the server was made", value=uptime)

    def _counters(self, counters: Counters) -> Iterator[Metric]:
        yield self._counter("prompt_tokens", "Prompt tokens of admitted requests", counters.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens sampled", counters.generation_tokens)
        refused = "Tokens sampled and thrown away, because a schema or tool did not allow them"
        yield self._counter("refused_tokens", refused, counters.refused_tokens)
        yield self._counter("prefix_cache_queries", "Tokens looked up", counters.prefix_cache_queries)
        yield self._counter("prefix_cache_hits", "Tokens found", counters.prefix_cache_hits)
        yield self._counter("preemptions", "Sequences sent back to the queue", counters.preemptions)
        steps = SummaryMetricFamily(
            "pensieve_step_seconds", "Steps and the device's time in them", labels=("model", "kind")
        )
        for kind, count, total_s in (
            ("decode", counters.decode_steps, counters.decode_steps_s),
            ("prefill", counters.prefill_steps, counters.prefill_steps_s),
            ("mixed", counters.mixed_steps, counters.mixed_steps_s),
        ):
            steps.add_metric((self._model.name, kind), count, total_s)
        yield steps
        yield self._counter("failed_steps", "Steps after which all was computed again", counters.failed_steps)
        source = CounterMetricFamily(
            "pensieve_prompt_tokens_by_source",
            "Where prompt tokens' KV came from",
            labels=("model", "source"),
        )
        source.add_metric((self._model.name, "computed"), counters.computed_tokens)
        in_memory = counters.prefix_cache_hits - counters.disk_cache_hits
        source.add_metric((self._model.name, "hot"), in_memory)
        source.add_metric((self._model.name, "disk"), counters.disk_cache_hits)
        yield source
        evictions = CounterMetricFamily(
            "pensieve_prefix_cache_evictions", "Blocks taken from the prefix cache", labels=("reason",)
        )
        evictions.add_metric(("lru",), counters.evictions)
        yield evictions
        yield self._counter(
            "checkpoints", "States kept for later: recurrent ones, windows", counters.checkpoints_taken
        )
        dropped = CounterMetricFamily(
            "pensieve_checkpoints_dropped", "Kept states given up before their KV", labels=("reason",)
        )
        dropped.add_metric(("evicted",), counters.checkpoints_evicted)
        dropped.add_metric(("thinned",), counters.checkpoints_thinned)
        yield dropped
        text = "Requests that waited for another to compute their shared prefix"
        yield CounterMetricFamily("pensieve_prefill_coalesced", text, value=counters.prefix_waits)

    def _device_time(self, sessions: SessionStats) -> Metric:
        text = "The device's time by the class of the requests that it computed"
        family = CounterMetricFamily("pensieve_device_seconds", text, labels=("model", "class"))
        for work_class, seconds in sessions.device_s.items():
            family.add_metric((self._model.name, work_class), seconds)
        return family

    def _disk(self, disk: DiskStats) -> Iterator[Metric]:
        yield self._gauge("disk_used_bytes", "All that lies in the folder for KV", disk.used_bytes)
        yield self._gauge("disk_limit_bytes", "Most that may lie there", disk.limit_bytes)
        yield self._gauge("disk_files", "Files of this model's KV and states", disk.num_files)
        yield self._gauge("disk_blocks", "KV blocks that these files hold", disk.num_blocks)
        yield self._gauge("disk_off", "1 once the disk has failed for good, or while it hangs", disk.is_off)
        yield self._counter("disk_written_bytes", "Written, with what was removed since", disk.written_bytes)
        yield self._counter("disk_read_bytes", "Read and verified", disk.read_bytes)
        yield self._counter("disk_writes_skipped", "Files not written: no room, budget", disk.num_skipped)
        yield self._counter("disk_evictions", "Files removed for others", disk.num_evicted)
        failures = CounterMetricFamily(
            "pensieve_disk_failures", "Files not written, not read, or damaged", labels=("model", "reason")
        )
        for reason, count in (
            ("write", disk.num_write_failures),
            ("read", disk.num_read_failures),
            ("damaged", disk.num_damaged),
        ):
            failures.add_metric((self._model.name, reason), count)
        yield failures

    def _facts(self, stats: Stats) -> Iterator[Metric]:
        model = self._model
        yield InfoMetricFamily(
            "pensieve_build", "This server", {"version": __version__, "device": model.device}
        )
        facts = {
            "model": model.name,
            "num_blocks": str(stats.blocks_total),
            "num_kv_tokens": str(model.num_kv_tokens),
            "kv_bytes_per_token": str(model.kv_bytes_per_token),
            "num_state_slots": str(model.num_state_slots),
            "state_bytes": str(model.state_bytes),
            "window": "" if model.window is None else str(model.window.size),
            "max_context": str(model.max_context),
        }
        yield InfoMetricFamily("pensieve_cache_config", "Sizes of KV and states", facts)
        yield self._gauge("ranks", "Devices that compute the model together", max(1, len(model.ranks)))
        yield self._rank_memory()

    def _rank_memory(self) -> Metric:
        text = "What each of several devices keeps, in bytes"
        family = GaugeMetricFamily("pensieve_rank_memory_bytes", text, labels=("model", "rank", "kind"))
        for number, rank in enumerate(self._model.ranks):
            kinds = (("weights", rank.weight_bytes), ("kv", rank.kv_bytes), ("states", rank.state_bytes))
            for kind, num_bytes in kinds:
                family.add_metric((self._model.name, str(number), kind), num_bytes)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"pensieve_{name}", text, labels=("model",))
        family.add_metric((self._model.name,), value)
        return family

    def _by_state(self, name: str, text: str, counts: dict[str, int]) -> Metric:
        family = GaugeMetricFamily(f"pensieve_{name}", text, labels=("model", "state"))
        for state, count in counts.items():
            family.add_metric((self._model.name, state), count)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"pensieve_{name}", text, labels=("model",))
        family.add_metric((self._model.name,), value)
        return family
