"""Who runs in the next step, and what its result means. Plain Python: no await, no arrays, no clock.

`schedule()` plans a step, `update()` takes its result. Several steps may be planned before the first result
comes: a sequence then decodes a token that is still on the device, and one that turns out to have ended is
ignored in the steps already planned. That is safe because steps run in the order of their plans: a freed
block is written by its old owner before a new one can write to it.
"""

import logging
from collections import deque

from ..cache.blocks import BLOCK_SIZE, BlockAllocator
from ..cache.radix import RadixTree
from ..engine.step import NOT_A_NUMBER, DecodeRow, PrefillChunk, StepPlan, StepResult
from .budget import StepBudget
from .config import SchedulerConfig
from .constraint import ConstraintFailed, allowed_tokens, is_accepted
from .counters import Counters
from .pace import Pace
from .sequence import FinishReason, PrefixWait, Progress, Request, Sequence, SequenceStatus, shared_prefix

logger = logging.getLogger(__name__)

MAX_LOOKUPS = 8
"""Waiting sequences looked up in the prefix tree in one step: 100,000 tokens take milliseconds each."""


class Scheduler:
    """Queues, blocks and the prefix tree; the only place that changes them."""

    def __init__(self, config: SchedulerConfig, num_blocks: int, max_context: int) -> None:
        self.config = config
        self.max_context = min(max_context, num_blocks * BLOCK_SIZE)
        self.allocator = BlockAllocator(num_blocks)
        self.tree = RadixTree(self.allocator)
        self.counters = Counters()
        self.pace = Pace(config.itl_target_ms / 1000, config.step_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self._suspects: deque[Sequence] = deque()  # ran in a failed step; each is tried alone
        self._planned: deque[StepPlan] = deque()
        self._live: dict[int, Sequence] = {}
        self._num_added = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self._planned)

    def add(self, request: Request) -> Sequence:
        """Queue a request that fits: `len(prompt) < max_context` is the caller's to check."""
        assert len(request.prompt) < self.max_context
        self._num_added += 1
        sequence = Sequence(self._num_added, request)
        self.waiting.append(sequence)
        self._live[sequence.seq_id] = sequence
        return sequence

    def num_matched(self, prompt: list[int]) -> int:
        """Tokens of `prompt` whose KV is cached now."""
        return len(self.tree.match(prompt)) * BLOCK_SIZE

    # -- planning ------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """Plan the next step: every sequence that can decode, then prefill as far as the budget goes.

        None when nothing can be computed before a result of a planned step arrives, or at all.
        """
        plan = StepPlan(self.counters.steps + 1)
        budget = StepBudget(self.config.step_tokens, plan.step_id)
        self._plan_decode(plan, budget)
        self._drop_preempted(plan)
        if plan.decode:
            budget.limit(self.pace.num_tokens)
        self._admit(budget)
        self._plan_prefill(plan, budget)
        self._drop_preempted(plan)
        if not plan.num_tokens:
            return None
        self.counters.steps += 1
        self._planned.append(plan)
        return plan

    def _plan_decode(self, plan: StepPlan, budget: StepBudget) -> None:
        for sequence in list(self.running):
            position = len(sequence.tokens) - 1 + sequence.num_pending
            is_running = sequence.status is SequenceStatus.RUNNING  # a row before it may have preempted it
            fits = is_running and sequence.can_decode and position < self.max_context
            if not fits or not self._reserve(sequence, position + 1):
                continue
            plan.decode.append(self._row(sequence, position))
            sequence.num_computed = position + 1
            sequence.num_pending += 1
            budget.take(1)

    def _row(self, sequence: Sequence, position: int) -> DecodeRow:
        """What is to be fed at `position`, and what may be sampled there as far as that is known."""
        request, runs = sequence.request, sequence.table.runs(position + 1)
        if sequence.num_pending:
            return DecodeRow(sequence.seq_id, None, position, runs, request.sampling)
        allowed = allowed_tokens(request.constraint)
        return DecodeRow(sequence.seq_id, sequence.tokens[-1], position, runs, request.sampling, allowed)

    def _plan_prefill(self, plan: StepPlan, budget: StepBudget) -> None:
        prefilling = [sequence for sequence in self.running if sequence.num_to_prefill]
        for sequence, share in budget.shares(prefilling).items():
            start = sequence.num_computed
            if sequence.status is not SequenceStatus.RUNNING or not self._reserve(sequence, start + share):
                continue
            runs = sequence.table.runs(start + share)
            tokens = sequence.tokens[start : start + share]
            plan.prefill.append(PrefillChunk(sequence.seq_id, tokens, start, runs))
            sequence.num_computed = start + share

    def _drop_preempted(self, plan: StepPlan) -> None:
        """Take out of `plan` the sequences that a later reservation preempted."""
        dropped = [row for row in plan.decode if not self._is_running(row.seq_id)]
        for row in dropped:
            self._live[row.seq_id].num_pending -= 1
            plan.decode.remove(row)
        plan.prefill[:] = [chunk for chunk in plan.prefill if self._is_running(chunk.seq_id)]

    def _is_running(self, seq_id: int) -> bool:
        sequence = self._live.get(seq_id)
        return sequence is not None and sequence.status is SequenceStatus.RUNNING

    def _admit(self, budget: StepBudget) -> None:
        """Move waiting sequences to running while there is room for them in the batch and in memory."""
        num_lookups = 0
        for sequence in list(self._candidates()):
            if len(self.running) >= self.config.max_batch or budget.num_tokens <= 0:
                return
            if sequence.num_pending or (sequence.prefix_wait and not sequence.prefix_wait.is_over):
                continue
            num_lookups += 1
            if num_lookups > MAX_LOOKUPS:
                return
            if self._waits_for_prefix(sequence):
                continue
            if not self._start(sequence):
                return  # first come, first served: a smaller one behind it must not starve it

    def _candidates(self) -> deque[Sequence]:
        """The waiting sequences, or after a failed step one suspect alone, to find the culprit."""
        if not self._suspects:
            return self.waiting
        return deque() if self.running else deque([self._suspects[0]])

    def _start(self, sequence: Sequence) -> bool:
        num_available = self.allocator.num_free + self.allocator.num_cached - self._num_promised()
        if sequence.num_refused is not None and num_available <= sequence.num_refused:
            return False
        cached = self.tree.match(sequence.tokens)
        num_needed = -(-len(sequence.tokens) // BLOCK_SIZE) - len(cached)
        num_available -= sum(self.allocator.refs(block) == 1 for block in cached)  # not to be evicted for it
        if num_needed > num_available:
            sequence.num_refused = num_available
            return False
        self.allocator.share(cached)
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING
        sequence.table.extend(cached)
        sequence.num_computed = sequence.num_settled = len(cached) * BLOCK_SIZE
        sequence.first_step = self.counters.steps + 1
        sequence.num_refused = None
        self._count_admission(sequence)
        return True

    def _count_admission(self, sequence: Sequence) -> None:
        self.counters.prefix_queries += len(sequence.tokens)
        self.counters.prefix_hits += sequence.num_computed
        if sequence.num_cached is None:
            self.counters.prompt_tokens += sequence.num_prompt
            sequence.num_cached = sequence.num_computed

    def _num_promised(self) -> int:
        """Blocks that running prefills will still take."""
        return sum(
            -(-len(s.tokens) // BLOCK_SIZE) - len(s.table.blocks) for s in self.running if s.num_to_prefill
        )

    def _waits_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a prefix that `sequence` shares and the tree lacks."""
        num_matched = self.num_matched(sequence.tokens)
        for producer in self.running:
            if not producer.num_to_prefill and producer.num_settled >= producer.num_prompt - 1:
                continue
            num_shared = shared_prefix(sequence.tokens, producer.tokens, num_matched)
            if num_shared > max(num_matched, producer.num_settled):
                self.counters.prefix_waits += sequence.prefix_wait is None
                sequence.prefix_wait = PrefixWait(producer, num_shared)
                return True
        return False

    # -- memory --------------------------------------------------------------------------------------------

    def _reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`, preempting younger sequences if need be.

        False when it had to give way itself.
        """
        missing = -(-num_tokens // BLOCK_SIZE) - len(sequence.table.blocks)
        while missing > self.allocator.num_free:
            if self.tree.evict(missing - self.allocator.num_free):
                continue
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        if missing > 0:
            blocks = sequence.table.blocks
            room = -(-len(sequence.tokens) // BLOCK_SIZE) - len(blocks)
            sequence.table.extend(self.allocator.allocate(missing, blocks[-1] if blocks else None, room))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks and queue it again, first in line; it loses time, not tokens."""
        self.counters.preemptions += 1
        self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed = sequence.num_settled = 0
        sequence.mark = None
        self.allocator.release(sequence.table.clear())

    # -- results -------------------------------------------------------------------------------------------

    def update(self, result: StepResult) -> list[Progress]:
        """Take the result of the oldest planned step; returns what it brought to each sequence."""
        plan = self._planned.popleft()
        assert plan.step_id == result.step_id, "results come in the order of their plans"
        if plan.decode:
            self.pace.note(plan.num_tokens - len(plan.decode), result.elapsed_s)
        for chunk in plan.prefill:
            self.counters.computed_tokens += len(chunk.tokens)
            self._settle(plan.step_id, chunk.seq_id, chunk.start + len(chunk.tokens))
        progress = []
        for row in plan.decode:
            sequence = self._live.get(row.seq_id)
            if sequence is None:
                continue
            if plan.step_id < sequence.first_sample:
                self.counters.refused_tokens += 1
                continue
            step = self._advance(plan.step_id, row, sequence, result.tokens[row.seq_id])
            if step.tokens and row.seq_id in result.scores:
                step.scores.append(result.scores[row.seq_id])
            progress.append(step)
        return progress

    def _settle(self, step_id: int, seq_id: int, num_tokens: int) -> None:
        """The KV of a sequence's first `num_tokens` tokens is written: cache the blocks that are full."""
        sequence = self._live.get(seq_id)
        if sequence is None or not self._is_running(seq_id) or step_id < sequence.first_step:
            return  # ended, or preempted since
        num_full = num_tokens // BLOCK_SIZE
        if num_full > sequence.num_settled // BLOCK_SIZE:
            blocks = sequence.table.blocks[:num_full]
            sequence.mark = self.tree.insert(sequence.tokens, blocks, sequence.mark)
        sequence.num_settled = num_tokens

    def _advance(self, step_id: int, row: DecodeRow, sequence: Sequence, token: int) -> Progress:
        """Append a sampled token, or end the sequence on it; a stop token is counted but not passed on."""
        sequence.num_pending -= 1
        if token == NOT_A_NUMBER:
            self.tree.clear()  # the KV it came from may be cached, and would poison whoever shares it
            self.end(sequence, "error")
            return Progress(sequence)
        try:
            accepted = is_accepted(sequence.request.constraint, token, row.allowed)
        except ConstraintFailed as error:
            logger.error("a request cannot go on: %s", error)
            self.end(sequence, "error")
            return Progress(sequence)
        if accepted:
            # No sooner: where a sample is refused, the slot is written anew and must be nobody else's.
            self._settle(step_id, sequence.seq_id, len(sequence.tokens))
        self._acquit(sequence)
        if not accepted:
            self._sample_again(sequence)
            return Progress(sequence)
        self.counters.generation_tokens += 1
        if token in sequence.request.stop_token_ids:
            self.end(sequence, "stop")
            return Progress(sequence)
        sequence.tokens.append(token)
        num_known = len(sequence.tokens) - sequence.num_prompt
        if num_known >= sequence.request.max_tokens or len(sequence.tokens) >= self.max_context:
            self.end(sequence, "length")
        return Progress(sequence, [token])

    def _sample_again(self, sequence: Sequence) -> None:
        """The sample is refused: decode its position anew; steps queued behind it are void for `sequence`."""
        self.counters.refused_tokens += 1
        sequence.num_pending = 0
        sequence.first_sample = self.counters.steps + 1
        if sequence.status is SequenceStatus.RUNNING:
            sequence.num_computed = len(sequence.tokens) - 1

    def _acquit(self, sequence: Sequence) -> None:
        """A suspect that gets a token alone is innocent; it waits until the others have been tried."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)
            if self._suspects and sequence.status is SequenceStatus.RUNNING:
                self._requeue(sequence)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End `sequence` wherever it is, if it has not ended; steps already planned ignore it."""
        if sequence.status is SequenceStatus.FINISHED:
            return
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if sequence in self._suspects:
            self._suspects.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
        del self._live[sequence.seq_id]
        self.allocator.release(sequence.table.clear())

    def fail(self, is_blamed: bool = True) -> list[Progress]:
        """A planned step failed: nothing computed so far is trusted, every survivor starts anew.

        is_blamed: a sequence of the failed step may be the cause. They are then tried one at a time; one that
        fails alone is the culprit and ends with "error". Returns the progress of the sequences that ended.
        """
        involved = {row.seq_id for plan in self._planned for row in plan.decode}
        involved |= {chunk.seq_id for plan in self._planned for chunk in plan.prefill}
        self._planned.clear()
        failed = [sequence for seq_id, sequence in self._live.items() if seq_id in involved]
        for sequence in self._live.values():
            sequence.num_pending = 0
        for sequence in reversed(list(self.running)):
            self._requeue(sequence)
        self.tree.clear()
        if not is_blamed:
            return []
        if len(failed) == len(involved) == 1:
            self.end(failed[0], "error")
            return [Progress(failed[0])]
        self._suspects.extend(sequence for sequence in failed if sequence not in self._suspects)
        return []
