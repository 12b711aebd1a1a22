"""Recovery of the sequences from a failed step."""

import logging
from collections.abc import Iterable

from ..engine.step import StepPlan
from .kv_cache_manager import KVCacheManager
from .queues import RequestQueues
from .sequence import Sequence, SequenceStatus

logger = logging.getLogger(__name__)


class Recovery:
    """Requeues every sequence after a failed step, and isolates the step's own, to find the culprit."""

    def __init__(self, queues: RequestQueues, kv_cache: KVCacheManager) -> None:
        # While any sequence is isolated, the first of the list runs alone, and no other sequence runs.
        self.isolated: list[Sequence] = []
        self._queues = queues
        self._kv_cache = kv_cache

    def requeue_all(self) -> None:
        """Requeue every running sequence and empty the prefix tree: no KV computed so far can be trusted."""
        for sequence in self._queues.by_id.values():
            sequence.num_pending_tokens = 0
        for sequence in reversed(list(self._queues.running)):
            self._queues.requeue(sequence)
            logger.debug("%s waits again: a step failed", sequence)
        self._kv_cache.reset_prefix_cache()

    def isolate(self, failed: Iterable[StepPlan]) -> Sequence | None:
        """Let the sequences of the `failed` steps run alone from now on, one at a time, oldest first.

        Returns the culprit, for the caller to end: an already isolated sequence, alone in the failed steps.
        A sequence that fails alone for the first time is tried again: an engine may also die of other causes.
        """
        involved = {seq_id for plan in failed for seq_id in plan.seq_ids}
        alive = [sequence for seq_id, sequence in self._queues.by_id.items() if seq_id in involved]
        if len(alive) == len(involved) == 1 and alive[0] in self.isolated:
            return alive[0]
        self.isolated += [sequence for sequence in alive if sequence not in self.isolated]
        return None

    def clear(self, sequence: Sequence) -> None:
        """Clear an isolated sequence of suspicion: a step has sampled a token for it.

        It waits until the other isolated sequences have run.
        """
        if sequence in self.isolated:
            self.isolated.remove(sequence)
            if self.isolated and sequence.status is SequenceStatus.RUNNING:
                self._queues.requeue(sequence)
                logger.debug("%s waits again: %d others are still to run alone", sequence, len(self.isolated))

    def forget(self, sequence: Sequence) -> None:
        """Isolate `sequence` no longer: it is about to end."""
        if sequence in self.isolated:
            self.isolated.remove(sequence)
