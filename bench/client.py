"""A minimal client of the Messages API that times its stream."""

import http.client
import json
import statistics
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from .. import LOCAL_KEY


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed request, in seconds from sending it."""

    first_token_s: float
    end_s: float
    text: str
    input_tokens: int  # computed
    cached_tokens: int  # found in the prefix tree
    output_tokens: int
    delta_s: tuple[float, ...]  # when each part of the answer came


def stream(
    url: str, body: dict[str, Any], timeout_s: float = 600, headers: Mapping[str, str] | None = None
) -> Timing:
    """POST `body` to /v1/messages as a stream and time it. Raises RuntimeError on any error."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    sent = {"content-type": "application/json", "x-api-key": LOCAL_KEY, **(headers or {})}
    started = time.perf_counter()
    text, delta_s = "", list[float]()
    usage: dict[str, int] = {}
    with closing(connection):
        connection.request("POST", "/v1/messages", json.dumps({**body, "stream": True}), sent)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read().decode()}")
        for line in response:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if event["type"] == "error":
                raise RuntimeError(event["error"]["message"])
            if event["type"] == "content_block_delta":
                delta_s.append(time.perf_counter() - started)
                text += event["delta"].get("text", "")
            usage = event.get("usage") or usage
    end = time.perf_counter() - started
    cached, fresh = usage["cache_read_input_tokens"], usage["input_tokens"]
    first = delta_s[0] if delta_s else end
    return Timing(first, end, text, fresh, cached, usage["output_tokens"], tuple(delta_s))


def read_metric(url: str, name: str) -> float:
    """Return a Prometheus metric of the server, summed over all its labels."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def spread(values: list[float]) -> str:
    """Return the median and range as text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
