"""Sessions over a scheduler and a scripted engine, on a clock that is the device's time."""

import random
from collections import Counter
from dataclasses import dataclass, field

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.step import SamplingParams, StepPlan, StepResult, StepTime
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.fair_share import FairShare
from pensieve.scheduler.origin import Account, Origin, RequestClass
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request, Sequence, SequenceStatus
from pensieve.scheduler.step_load import StepLoad

CLASSES: tuple[RequestClass, ...] = ("main", "subagent", "workflow", "compaction")


@dataclass
class Worker:
    """A session that has `backlog` unfinished requests at any time, of lengths drawn up to its own.

    per_name: requests after which it names itself another session; 0 for never.
    """

    name: str
    backlog: int
    longest_prompt: int
    longest_answer: int
    share: float = 1.0
    has_key: bool = False
    classes: tuple[RequestClass, ...] = ("main",)
    per_name: int = 0
    num_unfinished: int = 0
    num_sent: int = 0

    def request(self, rng: random.Random) -> Request:
        """Draw a request. Its prompt has no prefix in common with others."""
        prompt = rng.choices(range(1000), k=rng.randint(1, self.longest_prompt))
        self.num_sent += 1
        origin = Origin(
            session=f"{self.name}, {(self.num_sent - 1) // self.per_name}" if self.per_name else self.name,
            request_class=rng.choice(self.classes),
            account=Account(self.name if self.has_key else "", self.share),
        )
        return Request(prompt, SamplingParams(), rng.randint(1, self.longest_answer), origin=origin)


@dataclass
class FairPlay:
    """Lets workers send requests, and computes them in a time that a device of the usual form would take.

    lag: steps that are planned before the first result comes.
    """

    workers: list[Worker]
    rng: random.Random
    max_batch: int = 4
    lag: int = 0
    row_s: float = 0.02
    token_s: float = 1e-3
    pass_s: float = 0.03
    num_blocks: int = 4000
    now_s: float = 0.0
    arrived_s: dict[Sequence, float] = field(default_factory=dict)
    longest_pause_s: float = 0.0  # for which a session with unfinished requests had no part of any step
    longest_lead_s: float = 0.0  # by which a request was begun before an older one of its session
    _plans: list[StepPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = SchedulerConfig(self.max_batch, step_tokens=2048)
        self.scheduler = Scheduler(config, self.num_blocks, self.num_blocks * BLOCK_SIZE)
        self.shares = self.scheduler.queues.shares
        self.owners: dict[Sequence, Worker] = {}
        self.had: dict[str, FairShare] = {}
        self._served_s: dict[str, float] = {}
        self._waiting: dict[Sequence, None] = {}  # for their first step
        self.elapsed_ns = 0

    def send(self, worker: Worker) -> Sequence:
        """Send one request of `worker`."""
        sequence = self.scheduler.add(worker.request(self.rng))
        self.owners[sequence], self.arrived_s[sequence] = worker, self.now_s
        self._waiting[sequence] = None
        if not worker.num_unfinished:
            self._served_s[worker.name] = self.now_s
        self.had[sequence.request.origin.session] = sequence.fair_share
        worker.num_unfinished += 1
        return sequence

    def run(self, until_s: float) -> None:
        """Keep all workers' backlogs up until `until_s`."""
        while self.now_s < until_s:
            for worker in self.workers:
                while worker.num_unfinished < worker.backlog:
                    self.send(worker)
            self.step()

    def finish(self) -> None:
        """Step until all that was sent has ended."""
        while self.scheduler.has_work:
            self.step()

    def step(self) -> None:
        """Plan a step, take a result, and check the accounts."""
        plan = self.scheduler.schedule()
        if plan is not None:
            self._plans.append(plan)
        if self._plans and (plan is None or len(self._plans) > self.lag):
            self._take(self._plans.pop(0))
        for sequence in [one for one in self._waiting if one.status is not SequenceStatus.WAITING]:
            del self._waiting[sequence]
            older = [one for one in self._waiting if one.fair_share is sequence.fair_share]
            for one in older[:1]:
                lead_s = self.arrived_s[sequence] - self.arrived_s[one]
                self.longest_lead_s = max(self.longest_lead_s, lead_s)
        assert sum(self.shares.device_ns.values()) == self.elapsed_ns
        assert sum(share.usage.device_ns for share in self.had.values()) == self.elapsed_ns

    def _take(self, plan: StepPlan) -> None:
        load = StepLoad.of(plan)
        work_s = load.rows * self.row_s + load.tokens * self.token_s + load.pairs * 1e-8
        elapsed_s = (work_s + self.pass_s * ((load.rows > 0) + load.slices)) * self.rng.uniform(0.9, 1.1)
        self.now_s += elapsed_s
        self.elapsed_ns += int(elapsed_s * 1e9 + 0.5)
        by_id = self.scheduler.queues.by_id
        for seq_id in plan.seq_ids:
            self._served_s[self.owners[by_id[seq_id]].name] = self.now_s
        for worker in self.workers:
            if worker.num_unfinished:
                pause_s = self.now_s - self._served_s[worker.name]
                self.longest_pause_s = max(self.longest_pause_s, pause_s)
        tokens = {row.seq_id: self.rng.randrange(1000) for row in plan.decode}
        self.scheduler.take_time(StepTime(plan.step_id, elapsed_s))
        self.scheduler.update(StepResult(plan.step_id, tokens))
        for sequence in [one for one in self.owners if one.finish_reason is not None]:
            self.owners.pop(sequence).num_unfinished -= 1

    def device_s(self) -> Counter[str]:
        """Return the seconds that each session has had."""
        return Counter({name: share.usage.device_ns / 1e9 for name, share in self.had.items()})
