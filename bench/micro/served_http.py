"""Served cases through `pensieve serve`: a new server on a random model, with its defaults, asked over HTTP.

    python -m pensieve.bench.micro.served_http CASE FOLDER SIZES.json REPORT.json

`gpu_served` starts this module, once for each fresh start of a server. It times the start. Nothing is sent
before the case, so that only the server's own start has warmed anything up.

* http: the fleet of `pensieve bench`, twice, with other prompts the second time.
* http-long: a long prompt alone, twice; then beside sessions that decode, twice.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import abc
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..config import BenchConfig, TraceConfig
from ..dialects import make_api
from ..filler_words import words
from ..fleet import PlayedTrace, Record, play
from ..servers import SERVERS, client, install, running
from ..trace import make_trace
from ..wire import HttpRequest, RequestFailed, stream_events
from .case_report import CaseReport, fleet_figures, long_figures, reported
from .served_sizes import ServedSizes, sizes_from

SAMPLE = 100_000
"""Characters of which the tokenizer's characters a token are measured."""

SETTLED = 32
"""Tokens that each session decodes before the long prompt is sent beside it."""

ENDLESS = 10**6
"""More tokens than any context has."""

START_LINES = ("model ", "device ", "context ", "KV ", "attends ")


def chars_per_token(folder: Path) -> float:
    """Return how many characters of made-up words are a token of the model in `folder`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return SAMPLE / len(tokenizer.encode(words(random.Random(0), SAMPLE)).ids)


class ServedClient:
    """Asks a running server."""

    def __init__(self, config: BenchConfig, sizes: ServedSizes, ratio: float) -> None:
        """ratio: characters a token."""
        self._config = config
        self._sizes = sizes
        self._ratio = ratio
        self._rng = random.Random()

    async def fleet(self) -> PlayedTrace:
        """Play the fleet with prompts that no other call has sent."""
        sizes = self._sizes
        trace = TraceConfig(
            sessions=sizes.sessions,
            turns=sizes.turns,
            system_chars=round(sizes.shared * self._ratio),
            tools=0,
            turn_chars=round(sizes.new * self._ratio),
            output_tokens=sizes.answer,
            seed=self._rng.getrandbits(40),
        )
        return await play(make_trace(trace), self._config, no_progress)

    def body(self, tokens: int, answer: int) -> dict[str, Any]:
        """Return a request's body with a new prompt of about `tokens` tokens."""
        text = words(self._rng, round(tokens * self._ratio))
        return {
            "model": self._config.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": answer,
            "temperature": 0,
            "stream": True,
        }

    async def stream(self, body: dict[str, Any], pieces: "PieceTimes") -> None:
        """Make a request; keep in `pieces` when its answer's pieces come."""
        api = make_api(self._config.protocol)
        headers = api.headers(self._config.api_key)
        call = HttpRequest(self._config.url + api.path, headers, body)
        try:
            async with aclosing(stream_events(call)) as events:
                async for event in events:
                    if api.read(event).text:
                        pieces.add()
        finally:
            pieces.close()

    async def first_token_s(self, body: dict[str, Any]) -> float:
        """Make a request; return the seconds to its first token."""
        pieces, started_s = PieceTimes(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.stream(body, pieces))
            return await pieces.wait_for(1) - started_s

    async def long(self, report: CaseReport) -> None:
        """Send a long prompt alone, then beside sessions that decode."""
        sizes = self._sizes
        # Drawn first: while tokens come, the client must not be busy.
        prompts = [self.body(sizes.long, 1) for _ in range(4)]
        sessions = [self.body(sizes.beside_context, ENDLESS) for _ in range(sizes.beside)]
        alone = [await self.first_token_s(body) for body in prompts[:2]]
        pieces = [PieceTimes() for _ in sessions]
        pairs = zip(sessions, pieces, strict=True)
        tasks = [asyncio.create_task(self.stream(body, own)) for body, own in pairs]
        try:
            for name, body in zip(("beside, first", "beside, second"), prompts[2:], strict=True):
                for own in pieces:
                    await own.wait_for(SETTLED)
                sent_s = time.perf_counter()
                ttft_s = await self.first_token_s(body)
                gaps = [gap for own in pieces for gap in own.gaps(sent_s, sent_s + ttft_s)]
                long_figures(report, name, alone, ttft_s, gaps)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class PieceTimes:
    """When the pieces of an answer came."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._added = asyncio.Event()  # also set at the answer's end
        self._has_ended = False

    def add(self) -> None:
        """Keep that a piece has come now."""
        self._times.append(time.perf_counter())
        self._added.set()

    def close(self) -> None:
        """Keep that the answer has ended."""
        self._has_ended = True
        self._added.set()

    async def wait_for(self, count: int) -> float:
        """Wait until `count` more pieces have come; return when the last one did.

        Raises RequestFailed when the answer ends before.
        """
        wanted = len(self._times) + count
        while len(self._times) < wanted:
            if self._has_ended:
                raise RequestFailed("an answer ended before it should")
            self._added.clear()
            await self._added.wait()
        return self._times[wanted - 1]

    def gaps(self, begin_s: float, end_s: float) -> list[float]:
        """Return the times between neighbours that ended after `begin_s` and began before `end_s`."""
        return [b - a for a, b in pairwise(self._times) if b > begin_s and a < end_s]


def no_progress(_: Record) -> None:
    """Show no progress bar."""


async def ask_fleet(asker: ServedClient, report: CaseReport) -> None:
    """Play the fleet twice against a server that has just started."""
    for name in ("first run", "second run"):
        figures, text = fleet_figures(name, await asker.fleet())
        report.figures |= figures
        report.say(f"{name}:\n{text}\n")
    first, second = (report.figures[f"{name}: wall s"] for name in ("first run", "second run"))
    report.figures["wall, second run / first run"] = second / first


async def ask_long(asker: ServedClient, report: CaseReport) -> None:
    """Send long prompts to a server that has just started."""
    await asker.long(report)


CASES: dict[str, Callable[[ServedClient, CaseReport], Coroutine[Any, Any, None]]] = {
    "http": ask_fleet,
    "http-long": ask_long,
}


def serve_and_ask(folder: Path, sizes: ServedSizes, report: CaseReport) -> None:
    """Start a server, time that, and ask it."""
    ratio = chars_per_token(folder)
    plain = SERVERS[0].arguments
    spec = replace(SERVERS[0], arguments=lambda model, port: [*plain(model, port), *sizes.flags])
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "log"
        started_s = time.perf_counter()
        with running(spec, install(spec, Path(logs)), folder, log) as (_, url):
            ready_s = report.figures["start to ready s"] = time.perf_counter() - started_s
            told = log.read_text(encoding="utf-8").splitlines()
            report.say("\n".join(line for line in told if line.startswith(START_LINES)))
            flags = " ".join(sizes.flags) or "none"
            report.say(f"ready {ready_s:.1f} s after its start; flags beside --model and --port: {flags}")
            asker = ServedClient(client(spec, url, folder), sizes, ratio)
            asyncio.run(CASES[report.case](asker, report))


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Play one case against a new server and write its report, also when the case fails or is stopped."""
    case, folder, sizes_file, report_file = arguments or sys.argv[1:]
    sizes = sizes_from(json.loads(Path(sizes_file).read_text(encoding="utf-8")))
    with reported(case, Path(report_file)) as report:
        serve_and_ask(Path(folder), sizes, report)


if __name__ == "__main__":
    main()
