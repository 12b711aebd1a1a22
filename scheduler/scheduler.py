"""Who runs in the next step, and what its result means. Plain Python: no await, no arrays, no clock.

`schedule()` plans a step, `update()` takes its result. Several steps may be planned before the first result
comes: a sequence then decodes a token that is still on the device, and one that turns out to have ended is
ignored in the steps already planned. That is safe because steps run in the order of their plans: a freed
block is written by its old owner before a new one can write to it.

    Scheduler            the face; what a step's result means
    ├── Planner          what the next step computes, and who is preempted for it
    │   └── Admission    which waiting sequences start to run
    ├── Recovery         what follows a failed step
    ├── Roster           state: who waits and who runs
    └── Memory           state: blocks and the prefix tree
"""

import logging
from collections import deque
from dataclasses import replace

from ..cache.blocks import BLOCK_SIZE
from ..engine.step import NOT_A_NUMBER, DecodeRow, StepPlan, StepResult
from .admission import Admission
from .config import SchedulerConfig
from .constraint import ConstraintFailed, is_accepted
from .counters import Counters
from .kv_cache_manager import KVCacheManager
from .planner import Planner
from .prefill_pacer import PrefillPacer
from .queues import RequestQueues
from .recovery import Recovery
from .sequence import FinishReason, Progress, Request, Sequence, SequenceStatus
from .stats import Stats
from .step_budget import StepBudget

logger = logging.getLogger(__name__)


class Scheduler:
    """Plans steps and takes their results. Sequences may be added and ended between any two calls."""

    def __init__(self, config: SchedulerConfig, num_blocks: int, max_context: int) -> None:
        self.config = config
        self.max_context = min(max_context, num_blocks * BLOCK_SIZE)
        self.counters = Counters()
        self.kv_cache = KVCacheManager(num_blocks, self.counters)
        self.queues = RequestQueues(self.kv_cache)
        self._pace = PrefillPacer(config.itl_target_ms / 1000, config.step_tokens)
        self._recovery = Recovery(self.queues, self.kv_cache)
        admission = Admission(config.max_batch, self.queues, self.kv_cache, self._recovery, self.counters)
        self._planner = Planner(self.queues, self.kv_cache, admission, self.counters)
        self._planned: deque[StepPlan] = deque()  # whose results have not come

    @property
    def has_work(self) -> bool:
        """Whether any sequence has not ended, or any result is to come."""
        return bool(self.queues.by_id or self._planned)

    def stats(self, current_step_s: float, engine_error: str | None) -> Stats:
        """Take a snapshot; `current_step_s` and `engine_error` are what the loop alone knows."""
        allocator = self.kv_cache.allocator
        return Stats(
            num_running=len(self.queues.running),
            num_waiting=len(self.queues.waiting),
            blocks_total=allocator.num_blocks,
            blocks_free=allocator.num_free,
            blocks_cached=allocator.num_cached,
            blocks_held=allocator.num_held,
            counters=replace(self.counters),
            current_step_s=current_step_s,
            engine_error=engine_error,
        )

    def add(self, request: Request) -> Sequence:
        """Queue a request that fits: `len(prompt) < max_context` is the caller's to check."""
        assert len(request.prompt) < self.max_context
        return self.queues.add(request, min(len(request.prompt) + request.max_tokens, self.max_context))

    def schedule(self) -> StepPlan | None:
        """Plan the next step.

        None when nothing can be computed before a result of a planned step arrives, or at all.
        """
        step_id = self.counters.steps + 1
        budget = StepBudget(self.config.step_tokens, step_id)
        plan = self._planner.plan(step_id, budget, self._pace)
        if not plan.num_tokens:
            return None
        self.counters.steps += 1
        self._planned.append(plan)
        return plan

    def update(self, result: StepResult) -> list[Progress]:
        """Take the result of the oldest planned step; returns what it brought to each sequence."""
        plan = self._planned.popleft()
        assert plan.step_id == result.step_id, "results come in the order of their plans"
        if plan.decode:
            self._pace.note(plan.num_tokens - len(plan.decode), result.elapsed_s)
        by_id = self.queues.by_id
        for chunk in plan.prefill:
            self.counters.computed_tokens += len(chunk.tokens)
            if chunk.seq_id in by_id:
                self._commit(plan.step_id, by_id[chunk.seq_id], chunk.start + len(chunk.tokens))
        progress = []
        for row in plan.decode:
            sequence = by_id.get(row.seq_id)
            if sequence is None:
                continue  # it has ended since
            if plan.step_id < sequence.first_sample:
                self.counters.refused_tokens += 1
                continue
            tokens = self._advance(plan.step_id, row, sequence, result.tokens[row.seq_id])
            found = result.logprobs.get(row.seq_id)
            progress.append(Progress(sequence, tokens, [found] if tokens and found else []))
        return progress

    def _commit(self, step_id: int, sequence: Sequence, num_tokens: int) -> None:
        """Step `step_id` has written the KV of `num_tokens` tokens; void if `sequence` was requeued since."""
        if sequence.status is SequenceStatus.RUNNING and step_id >= sequence.first_step:
            self.kv_cache.commit(sequence, num_tokens)

    def _advance(self, step_id: int, row: DecodeRow, sequence: Sequence, token: int) -> list[int]:
        """Append a sampled token, or end the sequence on it. Returns what its reader gets: no stop token."""
        sequence.num_pending -= 1
        if token == NOT_A_NUMBER:
            self.kv_cache.reset_prefix_cache()
            self.end(sequence, "error")
            return []
        try:
            accepted = is_accepted(sequence.request.constraint, token, row.allowed)
        except ConstraintFailed as error:
            logger.error("a request cannot go on: %s", error)
            self.end(sequence, "error")
            return []
        if accepted:
            # No sooner: where a sample is refused, the slot is written anew and must be nobody else's.
            self._commit(step_id, sequence, len(sequence.tokens))
        self._recovery.acquit(sequence)
        if not accepted:
            self._sample_again(sequence)
            return []
        self.counters.generation_tokens += 1
        if token in sequence.request.stop_token_ids:
            self.end(sequence, "stop")
            return []
        sequence.tokens.append(token)
        if len(sequence.tokens) >= sequence.max_length:
            self.end(sequence, "length")
        return [token]

    def _sample_again(self, sequence: Sequence) -> None:
        """The sample is refused: decode its position anew; steps queued behind it are void for `sequence`."""
        self.counters.refused_tokens += 1
        sequence.num_pending = 0
        sequence.first_sample = self.counters.steps + 1
        if sequence.status is SequenceStatus.RUNNING:
            sequence.num_computed = len(sequence.tokens) - 1

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End `sequence` wherever it is, if it has not ended; steps already planned ignore it."""
        if sequence.status is not SequenceStatus.FINISHED:
            self._recovery.forget(sequence)
            self.queues.end(sequence, reason)

    def fail(self, unbegun: StepPlan | None = None) -> list[Progress]:
        """A planned step failed, and no result will come. Returns the progress of who ended by it.

        unbegun: a plan that the engine did not live to see; those before it may still be the cause.
        """
        self.counters.failed_steps += 1
        self._recovery.start_anew()
        culprit = self._recovery.suspect(plan for plan in self._planned if plan is not unbegun)
        self._planned.clear()
        if culprit is None:
            return []
        self.end(culprit, "error")
        return [Progress(culprit)]
