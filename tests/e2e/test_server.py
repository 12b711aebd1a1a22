"""The server process as a whole, without Claude Code."""

import http.client
import json
import random
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pensieve.bench.client import stream
from pensieve.bench.turns import words

from ..budget import trials


def health(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        stats: dict[str, Any] = json.load(answer)["stats"]
    return stats


def leave_early(url: str, seed: int) -> None:
    """Send a request and drop the connection after a random time: queued, in prefill, in decode or later."""
    rng = random.Random(seed)
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    message = {"role": "user", "content": "Count from 1 to 150. " + words(rng, rng.choice([10, 500, 5000]))}
    body = {"model": "claude-x", "max_tokens": 400, "messages": [message], "stream": rng.random() < 0.7}
    connection.request("POST", "/v1/messages", json.dumps(body), {"content-type": "application/json"})
    time.sleep(rng.choice([0, 0.01, 0.05, 0.2, 0.5]))
    connection.close()


def test_disconnects_leave_nothing_behind(server: str) -> None:
    num_clients = trials(60, 200)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(leave_early, [server] * num_clients, range(num_clients)))
    for _ in range(100):
        stats = health(server)
        if not stats["num_running"] + stats["num_waiting"] + stats["blocks_held"]:
            break
        time.sleep(0.1)
    assert (stats["num_running"], stats["num_waiting"], stats["blocks_held"]) == (0, 0, 0)
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
    assert stream(server, simple("Count from 5 to 9.")).text == "5, 6, 7, 8, 9"


def test_answers_are_the_same_cold_cached_alone_and_together(server: str) -> None:
    prompts = [f"Write out exactly: {words(random.Random(i), 40).strip()}" for i in range(8)]
    alone = [stream(server, simple(prompt)).text for prompt in prompts]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda prompt: stream(server, simple(prompt)), prompts))
    assert [timing.text for timing in together] == alone
    assert all(timing.cached_tokens > 0 for timing in together)
    assert len(set(alone)) == 8


def simple(prompt: str) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": prompt}]}
