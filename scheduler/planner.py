"""What the next step computes: a row for each sequence that decodes, then slices of prompts."""

from ..engine.step import DecodeRow, PrefillChunk, StepPlan
from .admission import Admission
from .constraint import allowed_tokens
from .counters import Counters
from .kv_cache_manager import KVCacheManager
from .prefill_pacer import PrefillPacer
from .queues import RequestQueues
from .sequence import Sequence, SequenceStatus
from .step_budget import StepBudget


class Planner:
    """Fills one step after another; where memory runs short, the youngest sequence gives way."""

    def __init__(
        self, queues: RequestQueues, kv_cache: KVCacheManager, admission: Admission, counters: Counters
    ) -> None:
        self._queues = queues
        self._kv_cache = kv_cache
        self._admission = admission
        self._counters = counters

    def plan(self, step_id: int, budget: StepBudget, pace: PrefillPacer) -> StepPlan:
        """Plan a step: every sequence that can decode, then prefill as far as the budget goes."""
        plan = StepPlan(step_id)
        self._plan_decode(plan)
        budget.take(len(plan.decode))
        if plan.decode:
            budget.limit(pace.num_tokens)
        self._admission.admit(step_id, budget)
        self._plan_prefill(plan, budget)
        return plan

    def _plan_decode(self, plan: StepPlan) -> None:
        for sequence in self._queues.running:  # may lose some at its end, behind the sequence that is planned
            if sequence.is_prefilling:
                continue
            num_tokens = len(sequence.tokens) + sequence.num_pending
            if num_tokens < sequence.max_length and self._reserve(sequence, num_tokens, plan):
                plan.decode.append(_row(sequence, num_tokens))
                sequence.num_computed = num_tokens
                sequence.num_pending += 1

    def _plan_prefill(self, plan: StepPlan, budget: StepBudget) -> None:
        prefilling = [sequence for sequence in self._queues.running if sequence.is_prefilling]
        for sequence, share in budget.shares(prefilling).items():
            start, end = sequence.num_computed, sequence.num_computed + share
            is_running = sequence.status is SequenceStatus.RUNNING  # one before it may have preempted it
            if is_running and self._reserve(sequence, end, plan):
                chunk = PrefillChunk(
                    sequence.seq_id, sequence.tokens[start:end], start, sequence.table.slot_ranges(end)
                )
                plan.prefill.append(chunk)
                sequence.num_computed = end

    def _reserve(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`, preempting younger sequences if need be.

        False when it had to give way itself.
        """
        while not self._kv_cache.reserve(sequence, num_tokens):
            victim = self._queues.running[-1]
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, plan: StepPlan) -> None:
        """Send `sequence` back to the queue, and take out what `plan` has of it already."""
        self._counters.preemptions += 1
        self._queues.requeue(sequence)
        kept = [row for row in plan.decode if row.seq_id != sequence.seq_id]
        sequence.num_pending -= len(plan.decode) - len(kept)
        plan.decode[:] = kept
        plan.prefill[:] = [chunk for chunk in plan.prefill if chunk.seq_id != sequence.seq_id]


def _row(sequence: Sequence, num_tokens: int) -> DecodeRow:
    """The row that feeds the last of `num_tokens`; while that is not known, nor is what may follow it."""
    request, position, slot_ranges = sequence.request, num_tokens - 1, sequence.table.slot_ranges(num_tokens)
    if sequence.num_pending:
        return DecodeRow(sequence.seq_id, None, position, slot_ranges, request.sampling)
    allowed = allowed_tokens(request.constraint)
    return DecodeRow(sequence.seq_id, sequence.tokens[-1], position, slot_ranges, request.sampling, allowed)
