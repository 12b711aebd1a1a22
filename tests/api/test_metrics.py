"""Metrics: names, labels and values after known requests."""

import re
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pensieve.api.metrics import Metrics
from pensieve.engine.served_model import RankMemory

from ..empty_stats import EMPTY_STATS
from ..fakes import FakeModel, Script
from .conftest import Server, StartServer, wait_until
from .test_errors import BODY

CALL = '<tool_call>{"name": "Bash", "arguments": {}}</tool_call>'
TOOLS = [{"name": "Bash", "input_schema": {}}]


def read(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Scrape all samples, without the label `model`."""
    text = server.http().get("/metrics").text
    return {
        (
            sample.name,
            frozenset((key, value) for key, value in sample.labels.items() if key != "model"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(server: Server, name: str, **labels: str) -> float | None:
    return read(server).get((f"pensieve_{name}", frozenset(labels.items())))


def test_a_request_is_counted_and_timed(start_server: StartServer) -> None:
    server = start_server()
    server.scheduler.play(Script([[65], [66], [67]], delay_s=0.01, num_cached=10))
    server.http().post("/v1/messages", json=BODY)
    assert value(server, "request_success_total", finished_reason="stop") == 1
    num_prompt_tokens = len(server.scheduler.requests[0].prompt)
    assert value(server, "request_prompt_tokens_sum") == num_prompt_tokens
    assert value(server, "request_generation_tokens_sum") == 4
    assert value(server, "time_to_first_token_seconds_count", cache="partial") == 1
    assert value(server, "inter_token_latency_seconds_count") == 2
    assert value(server, "prompt_cached_ratio_sum") == 10 / num_prompt_tokens
    for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time"):
        assert value(server, f"{name}_seconds_count") == 1
    assert value(server, "request_time_per_output_token_seconds_count") == 1
    assert value(server, "stage_seconds_count", stage="tokenize") == 1
    path = {"method": "POST", "path": "/v1/messages", "status": "200"}
    assert value(server, "http_requests_total", **path) == 1


def test_tool_calls_are_counted_by_what_became_of_them(start_server: StartServer) -> None:
    server = start_server()
    for text in (CALL, CALL.replace("}}", "}"), "<tool_call>?</tool_call>"):
        server.scheduler.play(Script([list(text.encode())]))
        server.http().post("/v1/messages", json=BODY | {"tools": TOOLS, "max_tokens": 999})
    for result in ("ok", "repaired", "failed"):
        assert value(server, "tool_calls_total", result=result) == 1
    assert value(server, "request_success_total", finished_reason="tool_use") == 2


def test_refusals_and_failures_are_counted(start_server: StartServer) -> None:
    server = start_server()
    client = server.http()
    client.post("/v1/messages", json=BODY | {"temperature": 9})
    server.scheduler.play(Script(fails=True))
    client.post("/v1/messages", json=BODY)
    client.get("/somewhere/else")
    assert value(server, "requests_rejected_total", code="400", reason="invalid") == 1
    assert value(server, "request_success_total", finished_reason="error") == 1
    assert value(server, "http_requests_total", method="GET", path="other", status="404") == 1


def test_a_client_that_leaves_is_counted(start_server: StartServer) -> None:
    server = start_server()
    server.scheduler.play(Script(hangs=True))
    with server.http().stream("POST", "/v1/messages", json=BODY | {"stream": True}):
        wait_until(lambda: bool(server.scheduler.token_streams))
    wait_until(lambda: value(server, "requests_cancelled_total", cause="disconnect") == 1)


def test_counting_tokens_is_timed(start_server: StartServer) -> None:
    server = start_server()
    server.http().post("/v1/messages/count_tokens", json=BODY)
    assert value(server, "count_tokens_seconds_count") == 1


def test_the_schedulers_snapshot_is_exported(server: Server) -> None:
    samples = read(server)

    def get(name: str, **labels: str) -> float:
        return samples[f"pensieve_{name}", frozenset(labels.items())]

    assert get("num_requests_running") == 0
    assert get("num_requests_waiting") == 0
    assert get("kv_cache_usage_perc", tier="hot") == 0.1
    assert [get("kv_blocks", state=state) for state in ("active", "cached", "free")] == [10, 30, 60]
    assert [get("state_slots", state=state) for state in ("active", "cached", "free")] == [2, 8, 30]
    assert [get("window_blocks", state=state) for state in ("active", "cached", "free")] == [5, 15, 40]
    assert [get("num_sessions", state=state) for state in ("running", "waiting", "idle")] == [0, 0, 0]
    assert get("uptime_seconds") > 0
    for name in (
        "prompt_tokens",
        "generation_tokens",
        "refused_tokens",
        "prefix_cache_queries",
        "prefix_cache_hits",
    ):
        assert get(f"{name}_total") == 0
    assert get("prompt_tokens_by_source_total", source="computed") == 0
    assert get("prompt_tokens_by_source_total", source="hot") == 0
    assert get("prompt_tokens_by_source_total", source="disk") == 0
    assert get("prefix_cache_evictions_total", reason="lru") == 0
    assert get("checkpoints_total") == 0
    assert get("checkpoints_dropped_total", reason="evicted") == 0
    assert get("checkpoints_dropped_total", reason="thinned") == 0
    assert get("preemptions_total") == 0
    assert get("failed_steps_total") == 0
    assert get("prefill_coalesced_total") == 0


def test_the_forecast_of_the_queue_is_exported() -> None:
    text, _ = Metrics(FakeModel(), lambda: replace(EMPTY_STATS, queue_forecast_s=12.5)).render()
    assert re.search(r"^pensieve_queue_forecast_seconds\{.*\} 12.5$", text.decode(), flags=re.MULTILINE)


def test_facts_about_build_and_cache_are_labels(server: Server) -> None:
    text = server.http().get("/metrics").text
    assert re.search(r'pensieve_build_info\{.*version="', text)
    assert re.search(r'pensieve_cache_config_info\{.*num_kv_tokens="200000"', text)


def test_each_rank_tells_its_memory() -> None:
    model = FakeModel(ranks=(RankMemory(700, 50, 9), RankMemory(600, 40, 0)))
    text = Metrics(model, lambda: EMPTY_STATS).render()[0].decode()
    assert re.search(r"^pensieve_ranks\{.*\} 2.0$", text, flags=re.MULTILINE)
    found = re.findall(r'^pensieve_rank_memory_bytes\{kind="(\w+)",.*rank="(\d)"\} (\d+)', text, re.MULTILINE)
    assert found == [
        *(("weights", "0", "700"), ("kv", "0", "50"), ("states", "0", "9")),
        *(("weights", "1", "600"), ("kv", "1", "40"), ("states", "1", "0")),
    ]


def test_two_servers_share_no_metrics(start_server: StartServer) -> None:
    one, other = start_server(), start_server()
    one.http().post("/v1/messages", json=BODY)
    labels: dict[str, Any] = {"finished_reason": "stop"}
    assert value(one, "request_success_total", **labels) == 1
    assert value(other, "request_success_total", **labels) is None
