"""The cost of HTTP: tokens/s of a batch through `pensieve serve` and of the bare engine loop, in turn.

    python -m pensieve.bench.micro.http_overhead --batch 16 --repeat 3
    python -m pensieve.bench.micro.http_overhead --shape qwen3-4b      # on a GPU

Both serve the same prompts. Only the time in which all sequences decode together counts: from the last
sequence's first token to the first sequence's end. The bare loop is scheduler and engine in one thread,
without tokenizer or event loop.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import abc
from pathlib import Path

from ...engine.config import EngineConfig
from ...engine.loading.build import build, plan_model
from ...engine.loading.tokenizer import load_tokenizer
from ...engine.step import SamplingParams
from ...scheduler.config import SchedulerConfig
from ...scheduler.sequence import Request
from ..config import TraceConfig
from ..fleet import Record, play
from ..random_model import write_model
from ..servers import SERVERS, client, install, running
from ..trace import Trace, make_trace
from .bare_engine import BareEngine, served_scheduler
from .shapes import SHAPES, write_random_model

MAX_CONTEXT = 8192
"""Context length of written models, such that the KV pools of two processes fit into one GPU."""


class InProcessModel:
    """A model in this process, without a server around it."""

    def __init__(self, folder: Path) -> None:
        config = EngineConfig(model=str(folder))
        planned = plan_model(folder, config, SchedulerConfig().max_batch)
        self._runner, self._served = build(planned)
        self._tokenizer = load_tokenizer(planned.info)

    def rate(self, trace: Trace) -> float:
        """Return the tokens/s of the trace's first turns, all queued at once."""
        scheduler = served_scheduler(self._served, SchedulerConfig())
        engine = BareEngine(self._runner, scheduler)
        times: dict[int, list[float]] = {}
        for prompt in self._prompts(trace):
            sequence = scheduler.add(Request(prompt, SamplingParams(), trace.output_tokens))
            times[sequence.seq_id] = []
        while scheduler.has_work:
            stepped = engine.step()
            now_s = time.perf_counter()
            for progress in stepped.progress:
                times[progress.sequence.seq_id] += [now_s] * len(progress.tokens)
        return joint_rate(list(times.values()))

    def _prompts(self, trace: Trace) -> list[list[int]]:
        head = {"role": "system", "content": trace.system}
        return [
            self._tokenizer.apply_chat_template(
                [head, {"role": "user", "content": session.turns[0].text}], add_generation_prompt=True
            )
            for session in trace.sessions
        ]


def http_rate(trace: Trace, folder: Path) -> float:
    """Return the tokens/s of the same requests through a new server."""
    spec = SERVERS[0]
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "log"
        with running(spec, install(spec, Path(logs)), folder, log) as (_, url):
            run = asyncio.run(play(trace, client(spec, url, folder), no_progress))
    return joint_rate([[record.start_s + at_s for at_s in record.delta_s] for record in run.records])


def no_progress(_: Record) -> None:
    """Show no progress bar."""


def joint_rate(times: abc.Sequence[abc.Sequence[float]]) -> float:
    """Return the tokens/s between the last sequence's first token and the first sequence's last token.

    times: when each sequence's tokens came. Raises ValueError when the sequences never ran together.
    """
    start, end = max(own[0] for own in times), min(own[-1] for own in times)
    if end <= start:
        raise ValueError("the sequences never ran together: give more --tokens")
    return sum(start < at_s <= end for own in times for at_s in own) / (end - start)


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Measure both in turn and print medians, ranges and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the benchmark's random model)")
    parser.add_argument("--shape", choices=SHAPES, help="a random model of this shape instead")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--characters", type=int, default=2000, help="of each prompt, half of them shared")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    half = options.characters // 2
    config = TraceConfig(
        sessions=options.batch,
        turns=1,
        tools=0,
        system_chars=half,
        turn_chars=half,
        output_tokens=options.tokens,
    )
    trace = make_trace(config)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        new = write_random_model(place, options.shape, MAX_CONTEXT) if options.shape else write_model(place)
        model = options.model or new
        engine = InProcessModel(model)
        engine.rate(trace)  # the first run compiles
        pairs = [(engine.rate(trace), http_rate(trace, model)) for _ in range(options.repeat)]
    for name, rates in zip(("bare engine", "through HTTP"), zip(*pairs, strict=True), strict=True):
        print(f"{name:<13} {statistics.median(rates):8.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f})")
    ratio = statistics.median(http / bare for bare, http in pairs)
    print(f"ratio         {100 * ratio:8.1f} %")


if __name__ == "__main__":
    main()
