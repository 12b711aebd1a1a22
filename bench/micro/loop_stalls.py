"""How long the server's event loop stands still while sessions send long prompts.

    python -m pensieve.bench.micro.loop_stalls --sessions 4 --turns 3 --turn-chars 90000

The app and the scheduler's loop are the server's, the clients are `pensieve bench` in a process of its own,
and the model only sleeps, so that whatever delays the event loop is the server's own work: reading bodies,
building prompts, looking up prefixes, planning, writing events. A task on the loop wants to run every
millisecond. Its delay counts without the time in which the machine ran other processes in the loop's place
(Linux). It is printed with the CPU time of the loop's thread, and with the line of the server at which that
thread was seen; a delay without CPU time is a wait for another thread that held the interpreter's lock.
"""

import argparse
import asyncio
import gc
import pickle
import sys
import threading
import time
from collections import abc
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import uvloop

from ...api.app import create_app
from ...api.command.serve import tuned_interpreter
from ...api.config import ServerConfig
from ...engine.step import StepPlan, StepsDone
from ...scheduler.config import SchedulerConfig
from ...scheduler.loop import SchedulerLoop
from ...scheduler.scheduler import Scheduler
from .stream_cost import MODEL, SleepingEngine, load_tokenizer, serving

NUM_BLOCKS = 40_000
MAX_CONTEXT = 262_144

TICK_S = 0.001
LATE_S = 0.003
"""Delay from which the place of a stall is looked up."""

RUN_QUEUE = Path("/proc/thread-self/schedstat")
"""Nanoseconds on a processor, nanoseconds waiting for one, and slices, of the thread that reads it."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A delay of the event loop."""

    delay_s: float
    cpu_s: float  # of it, CPU time of the loop's own thread
    place: str  # the server's line at which the loop's thread was seen; empty if it was not


class Probe:
    """Measures the delays of the event loop in which `run` runs."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.collections: list[tuple[float, int]] = []  # CPU time and generation of garbage collections
        self._gc_started_s = 0.0
        self._thread = threading.get_ident()
        self._due_s = time.perf_counter()
        self._place = ""
        self._is_over = threading.Event()

    async def run(self) -> None:
        """Measure until cancelled."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        gc.callbacks.append(self._collecting)
        try:
            while True:
                self._place, self._due_s = "", time.perf_counter() + TICK_S
                cpu_s, queued_s = time.thread_time(), waited_s()
                await asyncio.sleep(TICK_S)
                delay_s = time.perf_counter() - self._due_s - (waited_s() - queued_s)
                self.stalls.append(Stall(delay_s, time.thread_time() - cpu_s, self._place))
        finally:
            gc.callbacks.remove(self._collecting)
            self._is_over.set()
            watcher.join()

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started_s = time.thread_time()
        else:
            self.collections.append((time.thread_time() - self._gc_started_s, info["generation"]))

    def _watch(self) -> None:
        while not self._is_over.wait(TICK_S):
            if time.perf_counter() - self._due_s > LATE_S and not self._place:
                self._place = own_line(sys._current_frames()[self._thread])


class PicklingEngine(SleepingEngine):
    """An engine that sleeps, and for which each plan is pickled, as it is for the engine's process."""

    async def step(self, plan: StepPlan) -> StepsDone:
        """Pickle the plan, sleep, and return random tokens."""
        pickle.dumps(plan, pickle.HIGHEST_PROTOCOL)
        return await super().step(plan)


def own_line(frame: FrameType | None) -> str:
    """Return the innermost line of this package in a stack, as `file:line function`; empty without one."""
    while frame is not None:
        code = frame.f_code
        if "pensieve" in code.co_filename and "loop_stalls" not in code.co_filename:
            return f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    return ""


def waited_s() -> float:
    """Return how long this thread has waited for a processor so far; 0 where the system does not say."""
    try:
        return int(RUN_QUEUE.read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


async def play(port: int, options: argparse.Namespace) -> None:
    """Run the fleet in a process of its own, and wait for its end."""
    flags = {
        "sessions": options.sessions,
        "turns": options.turns,
        "system-chars": options.system_chars,
        "turn-chars": options.turn_chars,
        "output-tokens": options.tokens,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    url = f"--url=http://127.0.0.1:{port}"
    fleet = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pensieve", "bench", url, *words, stdout=asyncio.subprocess.DEVNULL
    )
    if await fleet.wait():
        raise RuntimeError("the fleet failed")


async def measure(options: argparse.Namespace) -> Probe:
    """Return the event loop's delays while the fleet runs."""
    config = SchedulerConfig()
    model = replace(MODEL, num_blocks=NUM_BLOCKS, num_kv_tokens=32 * NUM_BLOCKS, max_context=MAX_CONTEXT)
    loop = SchedulerLoop(PicklingEngine(options.step_ms / 1000), Scheduler(config, NUM_BLOCKS, MAX_CONTEXT))
    probe = Probe()
    async with serving(create_app(ServerConfig(), model, load_tokenizer(), loop), loop) as port:
        await asyncio.sleep(0.5)
        task = asyncio.create_task(probe.run())
        await play(port, options)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return probe


def report(probe: Probe, num_shown: int) -> None:
    """Print how many delays exceed some limits, and the longest of them."""
    stalls = probe.stalls
    for generation in range(3):
        times = [seconds for seconds, number in probe.collections if number == generation]
        longest_ms = 1000 * max(times, default=0.0)
        print(f"garbage of generation {generation}: {len(times)} collections, at most {longest_ms:.1f} ms")
    for limit_ms in (2, 5, 10, 50):
        delays, own = (
            sum(1000 * seconds > limit_ms for seconds in column)
            for column in zip(*((stall.delay_s, stall.cpu_s) for stall in stalls), strict=True)
        )
        print(f"above {limit_ms:2} ms: {delays:5} delays, {own:5} of the loop's own CPU time")
    print(f"longest of {len(stalls)} (ms, of them CPU time of the loop):")
    for stall in sorted(stalls, key=lambda stall: -stall.delay_s)[:num_shown]:
        print(f"{1000 * stall.delay_s:8.1f} {1000 * stall.cpu_s:8.1f}  {stall.place}")


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Measure and print the longest stalls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--system-chars", type=int, default=24_000)
    parser.add_argument("--turn-chars", type=int, default=70_000)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--step-ms", type=float, default=4, help="sleep of each step")
    parser.add_argument("--show", type=int, default=12, help="stalls to print")
    options = parser.parse_args(arguments)
    with tuned_interpreter(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report(runner.run(measure(options)), options.show)


if __name__ == "__main__":
    main()
