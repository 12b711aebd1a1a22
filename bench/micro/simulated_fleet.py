"""The scheduler over simulated devices, with a clock of its own: what its settings are worth to a fleet.

    python -m pensieve.bench.micro.simulated_fleet
    python -m pensieve.bench.micro.simulated_fleet --settings auto:250 512:60 --device M4 --trace long

Every trace is played on every device with each setting `step tokens:target in ms`. The scheduler is the real
one; only the time of a step comes from simulated_devices.py. A session sends its next turn as soon as it has
the answer. The table has, in seconds, the wall time, the time to the first token of a turn, and the time of a
whole turn; in milliseconds the time between tokens; and Jain's index of the sessions' mean turn time. Turns
of a session's crowd of subagents count apart. Each setting is played in plain order, as if all requests came
from one session's main agent, and by fair shares.
"""

import argparse
import random
from collections import abc
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

from ...cache.blocks import BLOCK_SIZE
from ...engine.step import SamplingParams, StepPlan, StepResult, StepsDone, StepTime
from ...scheduler.config import SchedulerConfig
from ...scheduler.origin import Origin
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Progress, Request, Sequence
from ...scheduler.step_load import StepLoad
from ..report import table
from ..summary import percentile
from .simulated_devices import DEVICES, SimulatedDevice

MAX_CONTEXT = 100_000
MAX_STEP_TOKENS = 8192
"""Step tokens of the setting `auto`."""


@dataclass(frozen=True)
class TokenTrace:
    """A fleet's work, in tokens. The numbers of turns and the lengths go round among the sessions."""

    name: str
    sessions: int
    turns: int
    shared: int  # tokens that all prompts begin with
    new: int  # new tokens of each turn
    answer: int
    long: int = 0  # tokens of one further prompt, which arrives when each other session decodes
    crowd: int = 0  # subagents of the first session, which send turns until all sessions have had theirs

    def scaled(self, factor: float) -> "TokenTrace":
        """Return the trace with shorter prompts."""
        shared, new, long = (round(factor * count) for count in (self.shared, self.new, self.long))
        return replace(self, shared=shared, new=new, long=long)


TRACES = (
    TokenTrace("16 x 3 turns", sessions=16, turns=3, shared=24_000, new=2000, answer=128),
    TokenTrace("60k beside 15", sessions=15, turns=1, shared=7900, new=100, answer=1500, long=60_000),
    TokenTrace("8 short", sessions=8, turns=3, shared=1000, new=200, answer=200),
    TokenTrace("make bench", sessions=8, turns=3, shared=10_000, new=800, answer=64),
    TokenTrace("3 and 4 subagents", sessions=3, turns=4, shared=10_000, new=2000, answer=128, crowd=4),
    TokenTrace("one session", sessions=1, turns=3, shared=24_000, new=2000, answer=128),
)


BLOCKED = 0.9
"""Share of a step of slices alone for which queueing it blocks the host."""


class SimulatedEngine:
    """A device with a clock, in the order of the engine's `Runner`.

    Where it is ahead, a step of decode rows is queued before the one before is read, and slices of prompts
    follow their step's rows, whose tokens are read first.
    """

    def __init__(self, device: SimulatedDevice) -> None:
        self.now_s = 0.0
        self._device = device
        self._rng = random.Random(0)
        self._lengths: set[int] = set()
        self._free_s = 0.0  # when the device will have done all that is queued
        self._unread: StepPlan | None = None
        self._unfinished: tuple[StepPlan, float, float] | None = None  # with its start and end
        self._last_end_s = 0.0

    def step(self, plan: StepPlan) -> StepsDone:
        """Queue a plan; return what has come, at its time."""
        lengths = {len(chunk.tokens) for chunk in plan.prefill}
        load = StepLoad.of(plan)
        seconds = self._device.draw(load, self._rng, is_new=not lengths <= self._lengths)
        self._lengths |= lengths
        start_s = max(self._free_s, self.now_s)
        self._free_s = start_s + seconds
        if not self._device.is_ahead:
            self._unread, self._unfinished = plan, (plan, self.now_s, self._free_s)
            return self.drain()
        queued_s, done = self.now_s, self.drain()
        self._unread, self._unfinished = plan, (plan, queued_s, self._free_s)
        if not plan.prefill:
            return done
        if plan.decode:
            rows_s = self._device.seconds(StepLoad(load.rows, load.rows_context))
        else:
            rows_s = BLOCKED * seconds
        self.now_s = max(self.now_s, start_s + min(seconds, rows_s))
        return StepsDone((*done.results, *self._read()), done.times)

    def drain(self) -> StepsDone:
        """Wait for what is in flight, and return it."""
        if self._unfinished is None:
            return StepsDone()
        plan, start_s, end_s = self._unfinished
        self._unfinished = None
        begun_s, self.now_s = max(start_s, self._last_end_s), max(self.now_s, end_s)
        self._last_end_s = self.now_s
        return StepsDone(self._read(), (StepTime(plan.step_id, self.now_s - begun_s),))

    def _read(self) -> tuple[StepResult, ...]:
        plan, self._unread = self._unread, None
        return () if plan is None else (StepResult(plan.step_id, {row.seq_id: 0 for row in plan.decode}),)


@dataclass
class TimedTurn:
    """One request: when it was sent and when its tokens came, in seconds."""

    session: int
    sent_s: float
    agent: int = 0  # 0 for the main one
    token_s: list[float] = field(default_factory=list)


class SimulatedPlay:
    """One trace on one device with one setting."""

    def __init__(
        self, trace: TokenTrace, device: SimulatedDevice, config: SchedulerConfig, is_plain: bool = False
    ) -> None:
        """is_plain: all requests come from one session, so that nobody's share counts."""
        self._trace = trace
        self._is_plain = is_plain
        self._engine = SimulatedEngine(device)
        self._scheduler = Scheduler(config, 2_000_000 // BLOCK_SIZE, MAX_CONTEXT)
        self._rng = random.Random(1)
        self._shared = self._draw(trace.shared)
        self._turns: dict[int, TimedTurn] = {}  # by seq_id
        self.done: list[TimedTurn] = []
        self.long: list[TimedTurn] = []
        self.crowd: list[TimedTurn] = []

    def _draw(self, count: int) -> list[int]:
        return self._rng.choices(range(1, 1000), k=count)

    def run(self) -> None:
        """SimulatedPlay the trace to its end."""
        for agent in range(1, self._trace.crowd + 1):
            self._send(0, self._shared, agent)
        for session in range(self._trace.sessions):
            self._send(session, self._shared)
        waits_for_long = self._trace.long > 0
        while self._scheduler.has_work:
            if waits_for_long and all(turn.token_s for turn in self._turns.values()):
                waits_for_long = False
                self._add(-1, self._draw(self._trace.long), 16)
            plan = self._scheduler.schedule()
            done = self._engine.drain() if plan is None else self._engine.step(plan)
            for step_time in done.times:
                self._scheduler.take_time(step_time)
            for result in done.results:
                self._take(self._scheduler.update(result))

    def _take(self, progress: list[Progress]) -> None:
        for each in progress:
            self._turns[each.sequence.seq_id].token_s += [self._engine.now_s] * len(each.tokens)
            if each.sequence.finish_reason is not None:
                self._end(each.sequence)

    def _send(self, session: int, history: list[int], agent: int = 0) -> None:
        self._add(session, history + self._draw(self._trace.new), self._trace.answer, agent)

    def _add(self, session: int, prompt: list[int], max_tokens: int, agent: int = 0) -> None:
        name = str(agent) if agent else ""
        origin = Origin() if self._is_plain else Origin(session=str(session), agent=name)
        sequence = self._scheduler.add(Request(prompt, SamplingParams(), max_tokens, origin=origin))
        self._turns[sequence.seq_id] = TimedTurn(session, self._engine.now_s, agent)

    def _end(self, sequence: Sequence) -> None:
        turn = self._turns.pop(sequence.seq_id)
        if turn.agent:
            self.crowd.append(turn)
            if len(self.done) < self._trace.sessions * self._trace.turns:
                self._send(turn.session, sequence.tokens, turn.agent)
            return
        (self.long if turn.session < 0 else self.done).append(turn)
        played = sum(other.session == turn.session for other in self.done)
        if turn.session >= 0 and played < self._trace.turns:
            self._send(turn.session, sequence.tokens)

    def figures(self) -> list[str]:
        """Return the table's figures."""
        first = [turn.token_s[0] - turn.sent_s for turn in self.done]
        whole = [turn.token_s[-1] - turn.sent_s for turn in self.done]
        gaps = [later - earlier for turn in self.done for earlier, later in pairwise(turn.token_s)]
        means = [
            sum(turn.token_s[-1] - turn.sent_s for turn in self.done if turn.session == session)
            for session in range(self._trace.sessions)
        ]
        jain = sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))
        ends = [turn.token_s[-1] for turn in self.done + self.long]
        long = [turn.token_s[0] - turn.sent_s for turn in self.long]
        crowd = [turn.token_s[-1] - turn.sent_s for turn in self.crowd]
        seconds = [max(ends), percentile(first, 0.5), percentile(first, 0.95), percentile(long, 1.0)]
        times = [percentile(gaps, 0.5), percentile(gaps, 0.99), max(gaps)]
        return [
            *("-" if value is None else f"{value:.2f}" for value in seconds),
            *("-" if value is None else f"{1e3 * value:.0f}" for value in times),
            f"{sum(whole) / len(whole):.2f}",
            f"{jain:.3f}",
            f"{sum(crowd) / len(crowd):.2f}" if crowd else "-",
        ]


HEAD = (
    *("setting", "order", "wall", "TTFT p50", "TTFT p95", "long TTFT"),
    *("ITL p50", "ITL p99", "ITL max", "mean turn", "Jain", "crowd's turn"),
)


def read_setting(text: str) -> tuple[int, float]:
    """Read `step tokens:target`. Raises ValueError."""
    tokens, target = text.split(":")
    return MAX_STEP_TOKENS if tokens == "auto" else int(tokens), float(target)


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """SimulatedPlay the traces and print a table for each device and trace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=["auto:250", "auto:100", "auto:500", "512:250"])
    parser.add_argument("--device", default="", help="part of a device's name (default: all)")
    parser.add_argument("--trace", default="", help="part of a trace's name (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the prompts' lengths")
    options = parser.parse_args(arguments)
    for device in DEVICES:
        for trace in TRACES:
            if options.device in device.name and options.trace in trace.name:
                print(f"\n{device.name}, {trace.name}\n")
                lines = []
                for setting, is_plain in product(options.settings, (True, False)):
                    tokens, target_ms = read_setting(setting)
                    config = SchedulerConfig(32, tokens, target_ms)
                    play = SimulatedPlay(trace.scaled(options.scale), device, config, is_plain)
                    play.run()
                    lines.append([setting, "plain" if is_plain else "fair", *play.figures()])
                print(table(HEAD, lines), flush=True)


if __name__ == "__main__":
    main()
