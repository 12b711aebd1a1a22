"""Plans steps and takes their results. Plain Python: no await, no arrays, no clock.

`schedule()` plans a step, `update()` takes its result. Several steps may be planned before the first result
comes: a sequence then decodes a token that is still on the device, and steps already planned may hold rows of
a sequence that has ended, which `update()` ignores. Freed blocks can be handed out at once, because steps
run in the order of their plans: the old owner's last write to a block comes before the new owner's first.

    Scheduler            the interface; takes the steps' results
    ├── Planner          plans a step, and preempts where memory runs short
    │   └── Admission    lets waiting sequences run
    ├── Recovery         requeues all sequences after a failed step
    ├── DiskTier         saves and restores prefixes
    ├── RequestQueues    state: the waiting and the running sequences
    │   └── FairShares   state: what each session has had of the device, and who goes first
    ├── Sessions         state: who asks, and when each conversation is expected back
    └── KVCacheManager   state: blocks and the prefix tree
        └── StateManager       slots of recurrent states, and the tree's checkpoints
            └── WindowManager  blocks of layers that see a window only
"""

import logging
from collections import abc, deque
from dataclasses import replace

from ..cache.blocks import BLOCK_SIZE
from ..engine.served_model import WindowPool
from ..engine.step import NOT_A_NUMBER, DecodeRow, StepPlan, StepResult, StepTime
from .admission import Admission
from .config import SchedulerConfig
from .constraint import ConstraintFailed, is_accepted
from .counters import Counters
from .disk_tier import DiskTier
from .kv_cache_manager import KVCacheManager
from .planner import PlannedStep, Planner
from .queues import RequestQueues
from .recovery import Recovery
from .sequence import FinishReason, Progress, Request, Sequence, SequenceStatus
from .sessions import Sessions
from .stats import ServerState, Stats
from .step_budget import StepBudget
from .step_cost import StepCost
from .step_load import StepLoad

logger = logging.getLogger(__name__)


class Scheduler:
    """Plans steps and takes their results. Sequences may be added and ended between any two calls."""

    def __init__(
        self,
        config: SchedulerConfig,
        num_blocks: int,
        max_context: int,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        """num_state_slots: slots for recurrent states; 0 for models without them.

        window: the pool of layers that keep no more than their window; None where all keep all tokens.
        """
        self.max_context = min(max_context, num_blocks * BLOCK_SIZE)
        self.counters = Counters()
        self.kv_cache = KVCacheManager(num_blocks, self.counters, num_state_slots, window)
        self._most_tokens = num_blocks * BLOCK_SIZE if window is None else window.slice_tokens
        if window is not None and (config.step_tokens or 0) > self._most_tokens:
            logger.warning("windows have room for %d tokens of a step, not for more", self._most_tokens)
        self.queues = RequestQueues(self.kv_cache)
        self.config = config
        self.sessions = Sessions(self.kv_cache)
        self._cost = StepCost()
        self._recovery = Recovery(self.queues, self.kv_cache)
        self.disk = DiskTier(self.kv_cache, self.counters, self._cost)
        admission = Admission(config.max_batch, self.queues, self._recovery, self.disk, self.counters)
        self._planner = Planner(self.queues, self.kv_cache, admission, self.counters)
        self._in_flight: deque[StepPlan] = deque()  # planned steps whose results have not come, oldest first
        self._unfinished: deque[PlannedStep] = deque()  # those whose times have not come

    @property
    def has_work(self) -> bool:
        """Whether any sequence or planned step has not ended, or the disk is to be written or read."""
        return bool(self.queues.by_id or self._unfinished or self.disk.is_busy)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their start, or to go on after they had to make room."""
        return len(self.queues.waiting)

    @property
    def room(self) -> int:
        """Requests that may be added. Those for which the batch has room leave with the next step."""
        num_starting = max(0, self.config.max_batch - len(self.queues.running))
        return self.config.max_waiting + num_starting - self.num_waiting

    def num_ahead(self, sequence: Sequence) -> int | None:
        """Return how many sequences wait before `sequence`; None where it does not wait."""
        if sequence.status is not SequenceStatus.WAITING:
            return None
        return self.queues.num_ahead(sequence)

    def seconds_to_compute(self, sequence: Sequence, num_computed: int) -> float | None:
        """Return how long the rest of a prompt takes if nothing else is computed; None before any step."""
        num_left = max(1, sequence.num_prompt_tokens - num_computed)
        rate = self._cost.prefill_rate(num_computed, num_left)
        return None if rate is None else num_left / rate

    @property
    def running(self) -> abc.Sequence[Sequence]:
        """The running sequences, in order of admission."""
        return self.queues.running

    @property
    def restoring(self) -> abc.Sequence[Sequence]:
        """The waiting sequences whose prefixes are being read from disk."""
        restores = self.disk.restores
        return [s for s in self.queues.waiting if s.prefix_wait in restores] if restores else []

    def num_cached_tokens(self, sequence: Sequence) -> int:
        """Return how many of the first tokens of `sequence`, which waits, need not be computed now."""
        return self.kv_cache.num_cached_tokens(sequence)

    def num_matched_tokens(self, sequence: Sequence) -> int:
        """Return how many of the first tokens of `sequence` had cached KV at its last lookup."""
        return sequence.tree_position.num_blocks * BLOCK_SIZE if sequence.tree_position else 0

    def stats(self, state: ServerState, current_step_s: float, engine_error: str | None) -> Stats:
        """Return a snapshot. The arguments come from the caller, which has a clock and the engine."""
        allocator, states = self.kv_cache.allocator, self.kv_cache.states.slots
        windows = self.kv_cache.states.windows.allocator
        return Stats(
            num_running=len(self.queues.running),
            num_waiting=len(self.queues.waiting),
            blocks_total=allocator.num_blocks,
            blocks_free=allocator.num_free,
            blocks_cached=allocator.num_cached,
            blocks_held=allocator.num_held,
            states_total=states.num_slots,
            states_free=states.num_free,
            states_cached=states.num_cached,
            states_held=states.num_held,
            window_blocks_total=windows.num_blocks,
            window_blocks_free=windows.num_free,
            window_blocks_cached=windows.num_cached,
            window_blocks_held=windows.num_held,
            counters=replace(self.counters),
            state=state,
            current_step_s=current_step_s,
            engine_error=engine_error,
            sessions=self.queues.session_stats(len(self.sessions)),
            disk=None if self.disk.stats is None else replace(self.disk.stats),
        )

    def add(self, request: Request) -> Sequence:
        """Queue a request. The caller has checked that it fits: `len(prompt) < max_context`."""
        assert len(request.prompt) < self.max_context
        max_length = min(len(request.prompt) + request.max_tokens, self.max_context)
        sequence = self.queues.add(request, max_length)
        sequence.arrival_step = self.counters.steps + 1
        self.queues.shares.begin(sequence, self.sessions.fair_share(request.origin))
        self.sessions.begin(sequence)
        return sequence

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End `sequence` unless it has ended. `update()` ignores its rows in steps already planned."""
        if sequence.status is not SequenceStatus.FINISHED:
            self._recovery.forget(sequence)
            position = sequence.tree_position
            self.queues.end(sequence, reason)
            if reason in ("stop", "length"):
                self.disk.save(sequence, position)  # after the tree has got the answer's checkpoint
            self.sessions.end(sequence, position)

    def reset_prefix_cache(self) -> None:
        """Forget every cached prefix; running sequences keep their blocks."""
        self.kv_cache.reset_prefix_cache()
        self.disk.reset()

    def schedule(self) -> StepPlan | None:
        """Plan the next step.

        Returns None when no sequence can be computed: none is left, or each waits for a step's result. While
        the disk is written or read, and no other result is to come, a step without tokens asks how far it is.
        """
        step_id = self.counters.steps + 1
        num_tokens = min(self.config.step_tokens or self._most_tokens, self._most_tokens)
        budget = StepBudget(step_id, num_tokens, self.config.itl_target_ms / 1000, self._cost)
        plan, payers = self._planner.plan(step_id, budget)
        self.disk.plan(plan)
        is_asking = self.disk.is_busy and not self._in_flight
        if not (plan.num_tokens or plan.saves or plan.restores or plan.abandons or is_asking):
            return None
        if plan.num_tokens and not (plan.saves or plan.restores):  # nobody predicts the disk's time
            plan = replace(plan, expected_s=self._cost.expected_s(StepLoad.of(plan)))
        self.counters.steps += 1
        self._in_flight.append(plan)
        self._unfinished.append(PlannedStep(plan, payers))
        if logger.isEnabledFor(logging.DEBUG):
            slices = {chunk.seq_id: len(chunk.tokens) for chunk in plan.prefill}
            logger.debug(
                "step %d: %d decode rows, slice tokens by sequence %s", step_id, len(plan.decode), slices
            )
        return plan

    def update(self, result: StepResult) -> list[Progress]:
        """Take the result of the oldest planned step. Returns the decoded sequences' progress."""
        plan = self._in_flight.popleft()
        assert plan.step_id == result.step_id, "results come in the order of their plans"
        self.disk.update(result)
        by_id = self.queues.by_id
        for chunk in plan.prefill:
            self.counters.computed_tokens += len(chunk.tokens)
            if chunk.seq_id in by_id:
                self._commit(plan.step_id, by_id[chunk.seq_id], chunk.start + len(chunk.tokens))
        progress = []
        for row in plan.decode:
            sequence = by_id.get(row.seq_id)
            if sequence is None:
                continue  # the sequence has ended since
            if plan.step_id < sequence.first_sample_step:
                self.counters.refused_tokens += 1
                continue
            tokens = self._advance(plan.step_id, row, sequence, result.tokens[row.seq_id])
            logprobs = result.logprobs.get(row.seq_id)
            progress.append(Progress(sequence, tokens, [logprobs] if tokens and logprobs else []))
        return progress

    def take_time(self, time: StepTime) -> None:
        """Learn how long a planned step took, which has ended, and charge those it served."""
        plan, payers = self._unfinished.popleft()
        assert plan.step_id == time.step_id, "steps end in the order of their plans"
        self.counters.count_step(plan.kind, time.elapsed_s)
        if plan.num_tokens:
            self._cost.record(StepLoad.of(plan), time.elapsed_s)
            costs_ns = self._cost.divide(plan, time.elapsed_s)
            self.queues.shares.charge(payers, costs_ns, self.sessions.now_s)

    def fail(self, not_started: StepPlan | None = None) -> list[Progress]:
        """Compute every sequence anew: a planned step failed, and no result of a planned step will come.

        not_started: a plan that was not begun when the engine died; only the other plans may be the cause.
        Returns the progress of the sequence that the failure ended, if any.
        """
        self.counters.failed_steps += 1
        self._recovery.requeue_all()
        self.disk.fail(self.queues.waiting)
        culprit = self._recovery.isolate(plan for plan, _ in self._unfinished if plan is not not_started)
        self._in_flight.clear()
        self._unfinished.clear()
        if culprit is None:
            return []
        self.end(culprit, "error")
        return [Progress(culprit)]

    def _commit(self, step_id: int, sequence: Sequence, num_tokens: int) -> None:
        """Commit the KV of `num_tokens`, written by step `step_id`, unless `sequence` was requeued since."""
        if sequence.status is SequenceStatus.RUNNING and step_id >= sequence.first_kv_step:
            self.kv_cache.commit(sequence, num_tokens)

    def _advance(self, step_id: int, row: DecodeRow, sequence: Sequence, token: int) -> list[int]:
        """Append a sampled token, or end the sequence. Returns the reader's tokens: no stop token."""
        sequence.num_pending_tokens -= 1
        if token == NOT_A_NUMBER:
            self.disk.distrust(sequence)  # cached KV may be the cause, and would spread
            self.reset_prefix_cache()
            self.end(sequence, "error")
            return []
        try:
            accepted = is_accepted(sequence.request.constraint, token, row.allowed)
        except ConstraintFailed as error:
            logger.error("a request cannot go on: %s", error)
            self.end(sequence, "error")
            return []
        if accepted:
            # Only now: after a refusal the last token is fed again, and its slot, written again, must not be
            # in a shared block.
            self._commit(step_id, sequence, len(sequence.tokens))
        self._recovery.clear(sequence)
        if not accepted:
            self._sample_again(sequence)
            return []
        self.counters.generation_tokens += 1
        if len(sequence.tokens) == sequence.num_prompt_tokens:
            self.disk.save(sequence, sequence.tree_position)
        if token in sequence.request.stop_token_ids:
            self.end(sequence, "stop")
            return []
        sequence.tokens.append(token)
        if len(sequence.tokens) >= sequence.max_length:
            self.end(sequence, "length")
        return [token]

    def _sample_again(self, sequence: Sequence) -> None:
        """Feed the last token again: its sample is refused. Samples of queued steps are void."""
        self.counters.refused_tokens += 1
        sequence.num_pending_tokens = 0
        sequence.first_sample_step = self.counters.steps + 1
        if sequence.status is SequenceStatus.RUNNING:
            sequence.num_computed_tokens = len(sequence.tokens) - 1
            self.kv_cache.states.go_back(sequence)
