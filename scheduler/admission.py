"""Which waiting sequences start to run."""

import logging

from ..cache.blocks import BLOCK_SIZE
from .counters import Counters
from .disk_tier import DiskTier, disk_tokens
from .queues import RequestQueues
from .recovery import Recovery
from .sequence import PrefixWait, Sequence, shared_prefix_length
from .step_budget import StepBudget

logger = logging.getLogger(__name__)

MAX_LOOKUPS = 8
"""Most waiting sequences that a step looks up in the prefix tree: 60,000 tokens take some 0.3 ms."""


class Admission:
    """The most entitled first, see `fair_shares.py`; among equals, first come, first served.

    A sequence whose prefix another one is computing is skipped until that prefix is cached.
    """

    def __init__(
        self,
        max_batch: int,
        queues: RequestQueues,
        recovery: Recovery,
        disk: DiskTier,
        counters: Counters,
    ) -> None:
        self._max_batch = max_batch
        self._queues = queues
        self._kv_cache = queues.kv_cache
        self._recovery = recovery
        self._disk = disk
        self._counters = counters

    def admit(self, step_id: int, budget: StepBudget) -> None:
        """Let waiting sequences run from step `step_id` on, while batch, budget and memory have room."""
        if len(self._queues.running) >= self._max_batch:
            return
        num_lookups = 0
        for sequence in self._candidates():
            if len(self._queues.running) >= self._max_batch or not budget.has_room:
                return
            if _must_wait(sequence):
                continue
            num_lookups += 1
            if num_lookups > MAX_LOOKUPS:
                return
            if self._waits_for_prefix(sequence):
                num_lookups += 1  # comparing two prompts takes about as long again
                continue
            watermark = self._watermark(sequence)
            if self._disk.waits(sequence, watermark):
                continue
            if not self._kv_cache.allocate(sequence, watermark):
                if sequence.first_kv_step:  # it had to make room: memory may lose what it had then
                    sequence.is_searched = False
                return  # a smaller sequence later in the queue must not starve this one
            self._queues.start(sequence)
            sequence.first_kv_step = step_id
            self._record(sequence)
            sequence.prefix_wait = None  # it would keep the producer alive, which may have waited as well

    def _candidates(self) -> list[Sequence]:
        """Return the sequences that may start, in order: the waiting ones.

        While sequences of a failed step are isolated, only the first of them may start, and only alone.
        """
        if self._recovery.isolated:
            return [] if self._queues.running else self._recovery.isolated[:1]
        return self._queues.shares.in_order(self._queues.waiting)

    def displaced(self) -> Sequence | None:
        """Return the running sequence that leaves the full batch to one whose session is owed a place.

        None that is amid a prompt, where it would lose what it has computed since the last checkpoint.
        """
        running = self._queues.running
        if len(running) < self._max_batch or self._recovery.isolated:
            return None
        ready = (one for one in self._queues.waiting if not _must_wait(one))
        if not self._kv_cache.states.is_used:
            return self._queues.shares.displaced(running, ready)
        return self._queues.shares.displaced([one for one in running if not one.is_prefilling], ready)

    def make_way(self, sequence: Sequence) -> None:
        """Send a running sequence back to the queue. What it has computed is saved to disk, if there is one.

        When it goes on, it looks there again for what memory has lost meanwhile.
        """
        position = sequence.tree_position
        self._queues.requeue(sequence)
        self._disk.save(sequence, position)
        sequence.is_searched = False

    def _watermark(self, candidate: Sequence) -> int:
        """Return how many blocks must stay available beside those of the candidate's known tokens.

        They are the blocks that running prefills will still take, and those of the answers' expected growth,
        the candidate's among them: who starts without them is soon preempted, and computed again. Alone, a
        sequence needs no more room than it has tokens.
        """
        growth = self._queues.lengths.growth
        running = self._queues.running
        if not running:
            return 0
        missing = (s.block_table.num_missing(len(s.tokens) + growth(s)) for s in running)
        return sum(max(0, count) for count in missing) + -(-growth(candidate) // BLOCK_SIZE)

    def _waits_for_prefix(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing a prefix that `sequence` shares and the tree lacks."""
        if sequence.prefix_wait is not None and (position := sequence.prefix_wait.position) is not None:
            sequence.tree_position = position  # saves the walk along a prefix that the producer has walked
        num_cached = self._kv_cache.num_cached_tokens(sequence)
        for producer in self._queues.running:
            if not producer.is_prefilling and producer.num_committed_tokens >= producer.num_prompt_tokens - 1:
                continue
            if producer.space != sequence.space:
                continue
            num_shared = shared_prefix_length(sequence.tokens, producer.tokens, num_cached)
            if num_shared:
                num_shared = self._kv_cache.states.shared_checkpoint(producer, num_shared)
            if num_shared > max(num_cached, producer.num_committed_tokens):
                self._counters.prefix_waits += sequence.prefix_wait is None
                sequence.prefix_wait = PrefixWait(producer, num_shared)
                logger.debug("%s waits for %s to compute %d shared tokens", sequence, producer, num_shared)
                return True
        return False

    def _record(self, sequence: Sequence) -> None:
        """Count the admission of `sequence`, and log it."""
        self._counters.prefix_cache_queries += len(sequence.tokens)
        self._counters.prefix_cache_hits += sequence.num_computed_tokens
        if sequence.num_cached_tokens is None:
            self._counters.prompt_tokens += sequence.num_prompt_tokens
            sequence.num_cached_tokens = sequence.num_computed_tokens
            sequence.num_disk_tokens = disk_tokens(sequence)
            self._counters.disk_cache_hits += sequence.num_disk_tokens
        logger.debug(
            "%s is admitted to step %d, %d steps after its arrival: %d prompt tokens, "
            "%d tokens in all, %d cached",
            sequence,
            sequence.first_kv_step,
            sequence.first_kv_step - sequence.arrival_step,
            sequence.num_prompt_tokens,
            len(sequence.tokens),
            sequence.num_computed_tokens,
        )


def _must_wait(sequence: Sequence) -> bool:
    """Whether `sequence` waits for a prefix, or for tokens of steps that were planned before a preemption."""
    return bool(sequence.num_pending_tokens or (sequence.prefix_wait and not sequence.prefix_wait.is_over))
