"""vLLM's names in /metrics, as vLLM's own dashboards ask for them."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from pensieve.api.config import ServerConfig
from pensieve.api.metrics import Metrics

from ..empty_stats import EMPTY_STATS
from ..fakes import FakeModel, Script
from .conftest import Server, StartServer
from .test_errors import BODY
from .test_metrics import read

VLLM = ServerConfig(metrics_names="vllm")

# Counters, gauges and histograms of the panels of vLLM's dashboards that a server of one model can have.
SINGLE = [
    "kv_cache_usage_perc",
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "engine_sleep_state",
    "generation_tokens_total",
    "prompt_tokens_total",
    "prompt_tokens_cached_total",
    "prompt_tokens_by_source_total",
    "prefix_cache_hits_total",
    "prefix_cache_queries_total",
    "num_preemptions_total",
    "request_success_total",
]
HISTOGRAMS = [
    "e2e_request_latency_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
]
PARTS = ("bucket", "sum", "count")


def value(server: Server, name: str, **labels: str) -> float:
    pairs = {"model_name": server.model.name, "engine": "0"} | labels
    return read(server)[f"vllm:{name}", frozenset(pairs.items())]


def test_every_series_that_vllms_dashboards_ask_for_is_there_after_a_request(
    start_server: StartServer,
) -> None:
    server = start_server(config=VLLM)
    server.scheduler.play(Script([[65], [66], [67]], num_cached=10))
    server.http().post("/v1/messages", json=BODY)
    names = {name for name, labels in read(server) if {"model_name", "engine"} <= {key for key, _ in labels}}
    wanted = SINGLE + [f"{name}_{part}" for name in HISTOGRAMS for part in PARTS]
    assert {f"vllm:{name}" for name in wanted} <= names


def test_the_numbers_are_the_servers_own_summed_over_labels_that_vllm_lacks(
    start_server: StartServer,
) -> None:
    server = start_server(config=VLLM)
    assert value(server, "request_success_total", finished_reason="error") == 0
    for num_cached in (0, 10):
        server.scheduler.play(Script([[65], [66], [67]], num_cached=num_cached))
        server.http().post("/v1/messages", json=BODY)
    server.scheduler.play(Script([[65], [66]]))
    server.http().post("/v1/messages", json=BODY | {"stop_sequences": ["B"]})
    own = read(server)
    reasons = {"stop", "stop_sequence"}
    for reason in reasons:
        assert own["pensieve_request_success_total", frozenset({("finished_reason", reason)})]
    assert value(server, "request_success_total", finished_reason="stop") == 3
    assert value(server, "time_to_first_token_seconds_count") == 3
    assert value(server, "time_to_first_token_seconds_bucket", le="+Inf") == 3
    assert value(server, "kv_cache_usage_perc") == 0.1
    assert value(server, "num_requests_waiting_by_reason", reason="capacity") == 0
    assert value(server, "prompt_tokens_by_source_total", source="local_compute") == 0
    assert value(server, "engine_sleep_state", sleep_state="awake") == 1


def test_an_engine_that_is_given_up_is_down_and_does_not_sleep() -> None:
    stats = replace(EMPTY_STATS, engine_error="gone")
    text = Metrics(FakeModel(), lambda: stats, "vllm").render()[0].decode()
    assert "\nvllm:num_requests_running{" in text
    assert "\nvllm:engine_sleep_state{" not in text


def test_without_the_flag_no_name_is_vllms(server: Server) -> None:
    assert "vllm:" not in server.http().get("/metrics").text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_the_text_well_formed(start_server: StartServer) -> None:
    """It complains of the colons alone, which vLLM's names have."""
    server = start_server(config=VLLM)
    server.http().post("/v1/messages", json=BODY)
    text = server.http().get("/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    complaints = checked.stderr.decode().splitlines()
    assert checked.stdout == b""
    assert all(re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line) for line in complaints)
