"""What becomes of sequences after a step has failed."""

from collections.abc import Iterable

from ..engine.step import StepPlan
from .kv_cache_manager import KVCacheManager
from .queues import RequestQueues
from .sequence import Sequence, SequenceStatus


class Recovery:
    """Starts everybody anew, and tries the sequences of a failed step one at a time, to find the culprit."""

    def __init__(self, queues: RequestQueues, kv_cache: KVCacheManager) -> None:
        self._queues = queues
        self._kv_cache = kv_cache
        self._suspects: list[Sequence] = []

    def start_anew(self) -> None:
        """Trust nothing computed so far: every sequence waits to be computed from its tokens."""
        for sequence in self._queues.by_id.values():
            sequence.num_pending = 0
        for sequence in reversed(list(self._queues.running)):
            self._queues.requeue(sequence)
        self._kv_cache.reset_prefix_cache()

    def suspect(self, failed: Iterable[StepPlan]) -> Sequence | None:
        """Try the sequences of `failed` steps one at a time from now on, in the order of their arrival.

        Returns the one that was alone in them and a suspect already: the culprit, the caller's to end.
        Who fails alone for the first time is tried again: an engine may also die of what others do.
        """
        involved = {seq_id for plan in failed for seq_id in plan.seq_ids}
        alive = [sequence for seq_id, sequence in self._queues.by_id.items() if seq_id in involved]
        if len(alive) == len(involved) == 1 and alive[0] in self._suspects:
            return alive[0]
        self._suspects += [sequence for sequence in alive if sequence not in self._suspects]
        return None

    def candidates(self) -> list[Sequence]:
        """Who may start to run, in order: all that wait, or a suspect alone while there are any."""
        if not self._suspects:
            return list(self._queues.waiting)
        return [] if self._queues.running else self._suspects[:1]

    def acquit(self, sequence: Sequence) -> None:
        """It got a token: a suspect that does so is innocent, and waits until the others have been tried."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)
            if self._suspects and sequence.status is SequenceStatus.RUNNING:
                self._queues.requeue(sequence)

    def forget(self, sequence: Sequence) -> None:
        """It has ended: nothing is left to try."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)
