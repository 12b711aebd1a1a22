"""Plans a step: a row for each sequence that decodes, then slices of prompts, by their sessions' shares."""

import logging
from typing import NamedTuple

from ..engine.step import DecodeRow, PrefillChunk, SlotRange, StateSlots, StepPlan
from .admission import Admission
from .constraint import allowed_tokens
from .counters import Counters
from .fair_shares import Beneficiaries
from .kv_cache_manager import KVCacheManager
from .queues import RequestQueues
from .sequence import PrefixWait, Sequence, SequenceStatus
from .step_budget import StepBudget

logger = logging.getLogger(__name__)


class PlannedStep(NamedTuple):
    """A step, and for each of its rows, then of its slices, the sequences that it is computed for."""

    plan: StepPlan
    payers: list[tuple[Sequence, ...]]


class Planner:
    """Plans one step after another. Where memory runs short, the least entitled sequence is preempted."""

    def __init__(
        self, queues: RequestQueues, kv_cache: KVCacheManager, admission: Admission, counters: Counters
    ) -> None:
        self._queues = queues
        self._kv_cache = kv_cache
        self._admission = admission
        self._counters = counters

    def plan(self, step_id: int, budget: StepBudget) -> PlannedStep:
        """Plan a step: every sequence that can decode, then prefill as far as the budget goes."""
        plan = StepPlan(step_id)
        if (victim := self._admission.displaced()) is not None:
            self._preempt(victim, plan)
            logger.debug("%s leaves its place in step %d to another session", victim, step_id)
        if self._kv_cache.states.is_used:
            self._kv_cache.states.begin_step()
        self._plan_decode(plan)
        budget.take_rows(plan.decode)
        self._admission.admit(step_id, budget)
        if beneficiaries := self._beneficiaries():
            self._plan_prefill(plan, budget, beneficiaries)
        by_id = self._queues.by_id
        payers = [(by_id[row.seq_id],) for row in plan.decode]
        return PlannedStep(plan, payers + [beneficiaries[by_id[chunk.seq_id]] for chunk in plan.prefill])

    def _plan_decode(self, plan: StepPlan) -> None:
        states = self._kv_cache.states if self._kv_cache.states.is_used else None
        has_windows = states is not None and states.windows.is_used
        for sequence in list(self._queues.running):
            if sequence.is_prefilling or sequence.status is not SequenceStatus.RUNNING:
                continue  # not running: it was preempted for one before it
            num_tokens = len(sequence.tokens) + sequence.num_pending_tokens
            if num_tokens >= sequence.max_length or (states and not states.may_decode(sequence)):
                continue
            if self._reserve(sequence, num_tokens, plan):
                state = states.advance(sequence, num_tokens) if states else None
                window_ranges = sequence.window_table.slot_ranges(num_tokens) if has_windows else ()
                plan.decode.append(_row(sequence, num_tokens, state, window_ranges))
                sequence.num_computed_tokens = num_tokens
                sequence.num_pending_tokens += 1

    def _plan_prefill(self, plan: StepPlan, budget: StepBudget, prefilling: Beneficiaries) -> None:
        has_windows = self._kv_cache.states.windows.is_used
        decoding = {self._queues.by_id[row.seq_id].fair_share for row in plan.decode}
        groups = self._queues.shares.slice_groups(prefilling, decoding)
        self._kv_cache.states.divide_slots([sequence for group in groups for sequence in group])
        slices = [item for group in groups for item in budget.slice_prefills(group).items()]
        for sequence, num_tokens in slices:
            start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + num_tokens
            is_running = sequence.status is SequenceStatus.RUNNING  # an earlier slice may have preempted it
            if is_running and self._reserve(sequence, end, plan):
                slot_ranges = sequence.block_table.slot_ranges(end)
                state = self._kv_cache.states.advance(sequence, end)
                windows = sequence.window_table.slot_ranges(end) if has_windows else ()
                tokens = sequence.tokens[start:end]
                plan.prefill.append(PrefillChunk(sequence.seq_id, tokens, start, slot_ranges, state, windows))
                sequence.num_computed_tokens = end

    def _beneficiaries(self) -> Beneficiaries:
        """Return the sequences with tokens to prefill, each with itself and all that wait for its prefix."""
        found: Beneficiaries = {one: (one,) for one in self._queues.running if one.is_prefilling}
        for sequence in self._queues.waiting if found else ():
            wait = sequence.prefix_wait
            if not isinstance(wait, PrefixWait) or wait.producer not in found:
                continue
            if wait.num_tokens > wait.producer.num_computed_tokens:
                found[wait.producer] += (sequence,)
        return found

    def _reserve(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Make sure that `sequence` has blocks for `num_tokens`, preempting less entitled ones if need be.

        Returns False when `sequence` is the least entitled one, and is preempted itself.
        """
        while not self._kv_cache.reserve(sequence, num_tokens):
            victim = self._queues.shares.least_entitled(self._queues.running)
            num_held = self._kv_cache.allocator.num_held
            self._preempt(victim, plan)
            num_freed = num_held - self._kv_cache.allocator.num_held
            logger.debug(
                "%s is preempted in step %d and frees %d blocks: %s needs them for %d tokens",
                victim,
                plan.step_id,
                num_freed,
                sequence,
                num_tokens,
            )
            if victim is sequence:
                # Admitted again for what only counts as available, it would take step after step from others.
                sequence.is_wary = True
                return False
        return True

    def _preempt(self, sequence: Sequence, plan: StepPlan) -> None:
        """Send `sequence` back to the queue, and remove its rows and slices from `plan`."""
        self._counters.preemptions += 1
        self._admission.make_way(sequence)
        kept = [row for row in plan.decode if row.seq_id != sequence.seq_id]
        sequence.num_pending_tokens -= len(plan.decode) - len(kept)
        plan.decode[:] = kept
        plan.prefill[:] = [chunk for chunk in plan.prefill if chunk.seq_id != sequence.seq_id]


def _row(
    sequence: Sequence, num_tokens: int, state: StateSlots | None, window_ranges: tuple[SlotRange, ...]
) -> DecodeRow:
    """Return the row that feeds the last of `num_tokens`; without a mask while that token is pending."""
    request, slot_ranges = sequence.request, sequence.block_table.slot_ranges(num_tokens)
    is_pending = sequence.num_pending_tokens > 0
    return DecodeRow(
        sequence.seq_id,
        None if is_pending else sequence.tokens[-1],
        num_tokens - 1,
        slot_ranges,
        request.sampling,
        None if is_pending else allowed_tokens(request.constraint),
        state,
        None if sequence.seen is None else sequence.seen.adjustment(sequence.tokens, num_tokens),
        window_ranges,
    )
