"""The routes for those who watch."""

import re

import pytest

from pensieve.scheduler.stats import ServerState

from .conftest import Server


def test_health_tells_the_model_and_what_is_going_on(server: Server) -> None:
    response = server.http().get("/health")
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["model"], body["device"]) == ("ok", server.model.name, "test")
    assert (body["attention"], body["kv"]) == ("scripted", "8-bit")
    assert body["template"] == dict.fromkeys(body["template"], True)
    assert body["stats"] == {
        "num_running": 0,
        "num_waiting": 0,
        "blocks_total": 100,
        "blocks_free": 60,
        "blocks_cached": 30,
        "blocks_held": 10,
        "states_total": 40,
        "states_free": 30,
        "states_cached": 8,
        "states_held": 2,
        "window_blocks_total": 60,
        "window_blocks_free": 40,
        "window_blocks_cached": 15,
        "window_blocks_held": 5,
        "prompt_tokens": 0,
        "computed_tokens": 0,
        "generation_tokens": 0,
        "refused_tokens": 0,
        "prefix_cache_queries": 0,
        "prefix_cache_hits": 0,
        "disk_cache_hits": 0,
        "prefix_waits": 0,
        "evictions": 0,
        "checkpoints_taken": 0,
        "checkpoints_evicted": 0,
        "checkpoints_thinned": 0,
        "preemptions": 0,
        "failed_steps": 0,
        "steps": 0,
        "decode_steps": 0,
        "decode_steps_s": 0.0,
        "prefill_steps": 0,
        "prefill_steps_s": 0.0,
        "mixed_steps": 0,
        "mixed_steps_s": 0.0,
        "num_sessions_running": 0,
        "num_sessions_waiting": 0,
        "num_sessions_idle": 0,
        "state": "ok",
        "current_step_s": 0.0,
        "engine_error": None,
        "queue_forecast_s": 0.0,
    }


def test_health_fails_with_the_engine(server: Server) -> None:
    server.scheduler.engine_error = "three steps failed"
    response = server.http().get("/health")
    assert response.status_code == 503
    assert response.json()["stats"]["engine_error"] == "three steps failed"


@pytest.mark.parametrize("state", ["stalled", "restarting", "stopping"])
def test_health_fails_while_the_engine_does_not_go_on(server: Server, state: ServerState) -> None:
    server.scheduler.state = state
    response = server.http().get("/health")
    assert (response.status_code, response.json()["status"]) == (503, state)
    metrics = server.http().get("/metrics").text
    assert 'pensieve_engine_step_age_seconds{model="' in metrics
    assert re.search(r"pensieve_engine_ready\{.*\} 0.0", metrics)
