"""Measures how a burst of count_tokens delays a running stream of a server.

    python -m pensieve.bench.count_burst http://127.0.0.1:7777

Fifty counts of a prompt of Claude Code's size are asked for at once while an answer is streamed, as an
editor's extension does when it starts. Printed are the gaps between the stream's pieces before and during the
burst, and the burst's seconds: for fifty new prompts with different last words, then for the same again.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import multiprocessing
import random
import statistics
import time
import urllib.parse
from multiprocessing.queues import Queue
from typing import Any, TypeAlias

import httpx

from .filler_words import words

NUM_REQUESTS = 50
QUIET_S = 3.0
HEADERS = {"content-type": "application/json"}
Pieces: TypeAlias = "Queue[tuple[int, float]]"
QUESTION = {"role": "user", "content": "Count from 1 to 900."}


def prompt(seed: int, num_chars: int) -> bytes:
    """Return a request's body with tools. Prompts of two seeds differ in their last words alone."""
    rng = random.Random(1)
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": words(rng, 60)}}}
    text = words(rng, num_chars // 20)
    tools = [{"name": f"Tool{i}", "description": text, "input_schema": schema} for i in range(13)]
    question = words(rng, num_chars // 8) + words(random.Random(seed), 200)
    messages = [{"role": "user", "content": question}]
    body = {"model": "claude-x", "system": words(rng, num_chars // 5), "tools": tools, "messages": messages}
    return json.dumps(body).encode()


def listen(url: str, output: Pieces) -> None:
    """Stream answers one after another for ever; put each piece's answer and time in `output`."""
    address = urllib.parse.urlsplit(url)
    body = {"model": "claude-x", "max_tokens": 6000, "stream": True, "messages": [QUESTION]}
    for answer in itertools.count():
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
        connection.request("POST", "/v1/messages", json.dumps(body), HEADERS)
        for line in connection.getresponse():
            if line.startswith(b"event: content_block_delta"):
                output.put((answer, time.monotonic()))


async def burst(url: str, bodies: list[bytes]) -> list[tuple[float, int]]:
    """Ask for all prompts' counts at once; return the seconds and the tokens of each."""
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def count(body: bytes) -> tuple[float, int]:
            started_s = time.monotonic()
            response = await client.post("/v1/messages/count_tokens", content=body, headers=HEADERS)
            response.raise_for_status()
            return time.monotonic() - started_s, response.json()["input_tokens"]

        return await asyncio.gather(*map(count, bodies))


def gaps(pieces: list[tuple[int, float]], begin_s: float, end_s: float) -> dict[str, float]:
    """Return percentiles of the milliseconds between an answer's pieces from `begin_s` to `end_s`."""
    inside = [(answer, moment) for answer, moment in pieces if begin_s <= moment <= end_s]
    found = sorted(1000 * (b[1] - a[1]) for a, b in itertools.pairwise(inside) if a[0] == b[0])
    if not found:
        return {"pieces": 0}
    p99 = found[int(0.99 * (len(found) - 1))]
    return {
        "pieces": len(found),
        "p50": round(statistics.median(found)),
        "p99": round(p99),
        "max": round(found[-1]),
    }


def measure(url: str, name: str, bodies: list[bytes]) -> dict[str, Any]:
    """Send the burst while an answer streams; return its figures, ready for JSON."""
    heard: Pieces = multiprocessing.Queue()
    listener = multiprocessing.Process(target=listen, args=(url, heard))
    listener.start()
    pieces = [heard.get()]
    begin_s = time.monotonic()
    time.sleep(QUIET_S)
    burst_s = time.monotonic()
    results = asyncio.run(burst(url, bodies))
    end_s = time.monotonic()
    while pieces[-1][1] < end_s:
        pieces.append(heard.get())
    listener.terminate()
    listener.join()
    return {
        "burst": name,
        "tokens": results[0][1],
        "burst_s": round(end_s - burst_s, 2),
        "count_p50_s": round(statistics.median(seconds for seconds, _ in results), 2),
        "gaps_before_ms": gaps(pieces, begin_s, burst_s),
        "gaps_during_ms": gaps(pieces, burst_s, end_s),
    }


def main() -> None:
    """Measure both bursts and print a line of JSON for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument(
        "--chars", type=int, default=19_400, help="length of a prompt: 13,000 tokens of the demo's"
    )
    arguments = parser.parse_args()
    bodies = [prompt(random.randrange(10**9), arguments.chars) for _ in range(NUM_REQUESTS)]
    for name in ("new", "again"):
        print(json.dumps(measure(arguments.url, name, bodies)), flush=True)


if __name__ == "__main__":
    main()
