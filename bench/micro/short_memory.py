"""Sessions with memory for a third of them: what is computed again, and does anybody wait for long?

    python -m pensieve.bench.micro.short_memory
    python -m pensieve.bench.micro.short_memory --sessions 16 --fitting 5 --turns 3 --seed 1

The scheduler is the real one; a step's time comes from simulated_devices.py. Each session sends its next turn
as soon as it has the answer. The same turns are played with KV for all sessions and with KV for a few. What a
session's share explains of its wait: it would have had the device's time that it was charged by then, if all
unfinished sessions had had equal parts of the device (processor sharing).
"""

import argparse
import random
from dataclasses import dataclass, field

from ...cache.blocks import BLOCK_SIZE
from ...engine.step import SamplingParams
from ...scheduler.config import SchedulerConfig
from ...scheduler.origin import Origin
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request, Sequence
from ..report import table
from .simulated_devices import DEVICES, SimulatedDevice
from .simulated_fleet import SimulatedEngine

MAX_CONTEXT = 200_000

HEAD = ("device", "KV for", "wall", "preempted", "computed", "slowest turn", "mean turn", "wait / explained")


@dataclass(frozen=True, slots=True)
class DrawnTurn:
    """New tokens of a prompt, and tokens of its answer, which may end before the request's bound."""

    new: list[int]
    answer: int


@dataclass
class ShortPlay:
    """Plays all sessions' turns. turn_s: of all turns. ended_s: of the sessions, by number."""

    turns: list[list[DrawnTurn]]
    device: SimulatedDevice
    num_blocks: int
    max_tokens: int
    turn_s: list[float] = field(default_factory=list)
    ended_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(SchedulerConfig(32), self.num_blocks, MAX_CONTEXT)
        self._engine = SimulatedEngine(self.device)
        self._asked: dict[Sequence, tuple[int, int, float]] = {}  # session, turn, when it was sent
        self._owned: dict[int, Sequence] = {}

    def run(self) -> None:
        """Play to the end."""
        for session in range(len(self.turns)):
            self._send(session, 0, [])
        while self.scheduler.has_work:
            plan = self.scheduler.schedule()
            done = self._engine.drain() if plan is None else self._engine.step(plan)
            for step_time in done.times:
                self.scheduler.take_time(step_time)
            for result in done.results:
                for each in self.scheduler.update(result):
                    self._take(each.sequence)

    def device_s(self) -> dict[int, float]:
        """Return the seconds that the device has computed for each session."""
        return {session: one.fair_share.usage.device_ns / 1e9 for session, one in self._owned.items()}

    def _send(self, session: int, turn: int, history: list[int]) -> None:
        prompt = history + self.turns[session][turn].new
        origin = Origin(session=str(session))
        sequence = self.scheduler.add(Request(prompt, SamplingParams(), self.max_tokens, origin=origin))
        self._asked[sequence] = session, turn, self._engine.now_s
        self._owned[session] = sequence

    def _take(self, sequence: Sequence) -> None:
        session, turn, sent_s = self._asked[sequence]
        num_sampled = len(sequence.tokens) - sequence.num_prompt_tokens
        if sequence.finish_reason is None and num_sampled < self.turns[session][turn].answer:
            return
        self.scheduler.end(sequence, "stop")
        del self._asked[sequence]
        self.turn_s.append(self._engine.now_s - sent_s)
        if turn + 1 < len(self.turns[session]):
            self._send(session, turn + 1, sequence.tokens)
        else:
            self.ended_s[session] = self._engine.now_s


def explained_s(device_s: dict[int, float]) -> dict[int, float]:
    """Return when each session ends if those that are left divide the device equally, all from the start."""
    ends, now_s, had_s = dict[int, float](), 0.0, 0.0
    order = sorted(device_s, key=lambda session: device_s[session])
    for place, session in enumerate(order):
        now_s += (device_s[session] - had_s) * (len(order) - place)
        had_s = device_s[session]
        ends[session] = now_s
    return ends


def draw_turns(
    rng: random.Random, num_sessions: int, num_turns: int, mean_answer: int
) -> list[list[DrawnTurn]]:
    """Draw sessions of alike lengths: a long first prompt, then short ones."""
    return [
        [
            DrawnTurn(
                rng.choices(range(1000), k=rng.randint(3000, 7000) if turn == 0 else rng.randint(200, 1500)),
                min(4 * mean_answer, 1 + int(rng.expovariate(1 / mean_answer))),
            )
            for turn in range(num_turns)
        ]
        for _ in range(num_sessions)
    ]


def main() -> None:
    """Play both ways on each device, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--fitting", type=int, default=5, help="sessions for which there is KV")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--answer-tokens", type=int, default=200, help="on average")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    turns = draw_turns(random.Random(options.seed), options.sessions, options.turns, options.answer_tokens)
    longest = max(sum(len(turn.new) + turn.answer for turn in session) for session in turns)
    lines = []
    for device in DEVICES:
        for fitting in (options.sessions, options.fitting):
            num_blocks = fitting * -(-longest // BLOCK_SIZE)
            play = ShortPlay(turns, device, num_blocks, 8 * options.answer_tokens)
            play.run()
            explained = explained_s(play.device_s())
            ratios = [play.ended_s[session] / explained[session] for session in explained]
            counters = play.scheduler.counters
            lines.append(
                [
                    *(device.name, str(fitting), f"{max(play.ended_s.values()):.1f}"),
                    *(str(counters.preemptions), str(counters.computed_tokens)),
                    f"{max(play.turn_s):.1f}",
                    f"{sum(play.turn_s) / len(play.turn_s):.1f}",
                    f"{min(ratios):.2f} to {max(ratios):.2f}",
                ]
            )
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
