"""Which of the waiting sequences start to run."""

from .counters import Counters
from .kv_cache_manager import KVCacheManager
from .queues import RequestQueues
from .recovery import Recovery
from .sequence import PrefixWait, Sequence, shared_prefix
from .step_budget import StepBudget

MAX_LOOKUPS = 8
"""Waiting sequences looked up in the prefix tree in one step: 100,000 tokens take milliseconds each."""


class Admission:
    """First come, first served; but who shares a prefix that is being computed lets others go before."""

    def __init__(
        self,
        max_batch: int,
        queues: RequestQueues,
        kv_cache: KVCacheManager,
        recovery: Recovery,
        counters: Counters,
    ) -> None:
        self._max_batch = max_batch
        self._queues = queues
        self._kv_cache = kv_cache
        self._recovery = recovery
        self._counters = counters

    def admit(self, step_id: int, budget: StepBudget) -> None:
        """Let waiting sequences run from step `step_id` on, while batch, budget and memory have room."""
        num_lookups = 0
        for sequence in self._recovery.candidates():
            if len(self._queues.running) >= self._max_batch or budget.num_tokens <= 0:
                return
            if sequence.num_pending or (sequence.prefix_wait and not sequence.prefix_wait.is_over):
                continue
            num_lookups += 1
            if num_lookups > MAX_LOOKUPS:
                return
            if self._waits_for_prefix(sequence):
                continue
            if not self._kv_cache.allocate(sequence, self._num_promised()):
                return  # a smaller one behind it must not starve it
            self._queues.start(sequence)
            sequence.first_step = step_id
            self._count(sequence)

    def _num_promised(self) -> int:
        """Blocks that running prefills will still take."""
        return sum(s.table.num_missing(len(s.tokens)) for s in self._queues.running if s.is_prefilling)

    def _waits_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a prefix that `sequence` shares and the tree lacks."""
        num_matched = self._kv_cache.num_matched(sequence.tokens)
        for producer in self._queues.running:
            if not producer.is_prefilling and producer.num_committed >= producer.num_prompt_tokens - 1:
                continue
            num_shared = shared_prefix(sequence.tokens, producer.tokens, num_matched)
            if num_shared > max(num_matched, producer.num_committed):
                self._counters.prefix_waits += sequence.prefix_wait is None
                sequence.prefix_wait = PrefixWait(producer, num_shared)
                return True
        return False

    def _count(self, sequence: Sequence) -> None:
        self._counters.prefix_cache_queries += len(sequence.tokens)
        self._counters.prefix_cache_hits += sequence.num_computed
        if sequence.num_cached is None:
            self._counters.prompt_tokens += sequence.num_prompt_tokens
            sequence.num_cached = sequence.num_computed
