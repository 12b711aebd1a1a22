"""Who waits and who runs. It knows neither steps nor why anybody is moved."""

from collections import deque

from .kv_cache_manager import KVCacheManager
from .sequence import FinishReason, Request, Sequence, SequenceStatus


class RequestQueues:
    """Every sequence that has not ended. It either waits or runs, and holds blocks only while it runs."""

    def __init__(self, kv_cache: KVCacheManager) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.by_id: dict[int, Sequence] = {}  # both
        self._kv_cache = kv_cache
        self._num_added = 0

    def add(self, request: Request, max_length: int) -> Sequence:
        """Queue a new sequence as the last."""
        self._num_added += 1
        sequence = Sequence(self._num_added, request, max_length)
        self.waiting.append(sequence)
        self.by_id[sequence.seq_id] = sequence
        return sequence

    def start(self, sequence: Sequence) -> None:
        """Let a waiting sequence run; its cached prefix is attached already."""
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING

    def requeue(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks and queue it again, first in line; it loses time, not tokens."""
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        sequence.status = SequenceStatus.WAITING
        self._kv_cache.free(sequence)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Take a sequence off, and its blocks."""
        (self.running if sequence.status is SequenceStatus.RUNNING else self.waiting).remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
        del self.by_id[sequence.seq_id]
        self._kv_cache.free(sequence)
