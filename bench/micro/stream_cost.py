"""The cost of a streamed token: the event loop's CPU time from a step's result to the clients' sockets.

    python -m pensieve.bench.micro.stream_cost --batch 16 --repeat 5
    python -m pensieve.bench.micro.stream_cost --protocol openai --tools 0

The app and the scheduler's loop are the server's, the clients are `pensieve bench` in a process of its own,
and the model only sleeps. The figure is the CPU time of the loop's thread while all sequences decode.
"""

import argparse
import asyncio
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import abc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import mlx_lm.utils
import uvicorn
import uvloop

from ...api.app import create_app
from ...api.config import ServerConfig
from ...engine.hang_watch import EngineState
from ...engine.served_model import ServedModel
from ...engine.step import SamplingParams, StepPlan, StepResult, StepsDone, StepTime
from ...scheduler.config import SchedulerConfig
from ...scheduler.loop import SchedulerLoop
from ...scheduler.scheduler import Scheduler
from ..config import ProtocolName
from ..random_model import write_tokenizer
from ..random_weights import CONFIGS, NUM_BYTES, SPECIAL_TOKENS, VOCABULARY
from ..report import write_json

NUM_BLOCKS = 10_000
MAX_CONTEXT = 32_768
EOS: int = CONFIGS["attention"]["eos_token_id"]

StepStart = tuple[int, float]
"""A step's rows, and the CPU time of the loop's thread, in seconds, when it was handed to the engine."""

MODEL = ServedModel(
    name="sleeping",
    vocab_size=VOCABULARY,
    max_context=MAX_CONTEXT,
    eos_token_ids=frozenset({EOS}),
    default_sampling=SamplingParams(),
    kv_type="none",
    kv_bytes_per_token=1024,
    num_blocks=NUM_BLOCKS,
    num_kv_tokens=MAX_CONTEXT,
    step_tokens=8192,
    device="none",
    attention="none",
)
"""Stands for a model that is loaded."""


class SleepingEngine:
    """An engine that sleeps for `step_s` each step and samples random words."""

    def __init__(self, step_s: float) -> None:
        self.marks: list[StepStart] = []
        self._step_s = step_s
        self._rng = random.Random(0)

    @property
    def state(self) -> EngineState:
        """All is well."""
        return "ok"

    async def step(self, plan: StepPlan) -> StepsDone:
        """Sleep on another thread, as a device computes; return random tokens."""
        self.marks.append((len(plan.decode), time.thread_time()))
        return await asyncio.get_running_loop().run_in_executor(None, self._sleep, plan)

    async def drain(self) -> StepsDone:
        """Return nothing: no step is ever in flight."""
        return StepsDone()

    async def lost(self) -> None:
        """Wait for ever: this engine is never lost."""
        await asyncio.Event().wait()

    def _sleep(self, plan: StepPlan) -> StepsDone:
        time.sleep(self._step_s)
        first = NUM_BYTES + len(SPECIAL_TOKENS)
        tokens = {row.seq_id: self._rng.randrange(first, VOCABULARY) for row in plan.decode}
        return StepsDone((StepResult(plan.step_id, tokens),), (StepTime(plan.step_id, self._step_s),))


def cost_us(marks: abc.Sequence[StepStart], batch: int) -> float:
    """Return the CPU time of a token, in microseconds, while the whole batch decodes.

    Raises ValueError when the whole batch never decoded together.
    """
    times = [cpu_s for num_rows, cpu_s in marks if num_rows == batch]
    if len(times) < 2:
        raise ValueError("the sequences never ran together: give more --tokens")
    return 1e6 * (times[-1] - times[0]) / (batch * (len(times) - 1))


def load_tokenizer() -> Any:
    """Make the comparison's tokenizer, a byte-level one like most models'."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "config.json", CONFIGS["attention"])
        write_tokenizer(folder)
        return mlx_lm.utils.load_tokenizer(folder, eos_token_ids=[EOS])


@asynccontextmanager
async def serving(app: Any, loop: SchedulerLoop) -> AsyncIterator[int]:
    """Serve in this event loop, on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", log_level="error", server_header=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tasks = [asyncio.create_task(loop.run()), asyncio.create_task(server.serve([listener]))]
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await tasks[1]
            tasks[0].cancel()


async def play(port: int, options: argparse.Namespace) -> None:
    """Run a fleet of which each session asks for one answer."""
    flags = {
        "url": f"http://127.0.0.1:{port}",
        "protocol": options.protocol,
        "sessions": options.batch,
        "turns": 1,
        "tools": options.tools,
        "system-chars": 200 * options.tools,
        "output-tokens": options.tokens,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    fleet = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pensieve", "bench", *words, stdout=asyncio.subprocess.DEVNULL
    )
    if await fleet.wait():
        raise RuntimeError("the fleet failed")


async def measure(options: argparse.Namespace) -> list[float]:
    """Return the microseconds of CPU a token of each run."""
    engine = SleepingEngine(options.step_ms / 1000)
    loop = SchedulerLoop(engine, Scheduler(SchedulerConfig(max_batch=options.batch), NUM_BLOCKS, MAX_CONTEXT))
    costs = []
    async with serving(create_app(ServerConfig(), MODEL, load_tokenizer(), loop), loop) as port:
        for _ in range(options.repeat):
            engine.marks.clear()
            await play(port, options)
            costs.append(cost_us(engine.marks, options.batch))
    return costs


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Measure and print the median and the range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", choices=get_args(ProtocolName), default="anthropic")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=600, help="of each answer")
    parser.add_argument("--tools", type=int, default=12, help="of each request")
    parser.add_argument("--step-ms", type=float, default=4, help="sleep of each step; 0 keeps the loop busy")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        costs = runner.run(measure(options))
    median = statistics.median(costs)
    print(f"{options.protocol:<9} {median:6.1f} us/token ({min(costs):.1f} to {max(costs):.1f})")


if __name__ == "__main__":
    main()
