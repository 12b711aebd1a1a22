"""The waiting and the running sequences. The queues know neither steps nor why a sequence is moved."""

from collections import deque

from .answer_lengths import AnswerLengths
from .fair_shares import FairShares
from .kv_cache_manager import KVCacheManager
from .sequence import FinishReason, Request, Sequence, SequenceStatus
from .stats import SessionStats


class RequestQueues:
    """Every sequence that has not ended. It either waits or runs, and holds blocks only while it runs."""

    def __init__(self, kv_cache: KVCacheManager) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.by_id: dict[int, Sequence] = {}  # the waiting and the running ones
        self.kv_cache = kv_cache
        self.lengths = AnswerLengths()
        self.shares = FairShares()
        self._places: dict[int, int] = {}  # of the waiting ones by their ids, in order
        self._placed_s = -1.0  # the device's time at which they had these places
        self._num_added = 0

    def add(self, request: Request, max_length: int) -> Sequence:
        """Make a sequence of `request` and queue it as the last one."""
        self._num_added += 1
        sequence = Sequence(self._num_added, request, max_length)
        self.waiting.append(sequence)
        self.by_id[sequence.seq_id] = sequence
        return sequence

    def start(self, sequence: Sequence) -> None:
        """Let a waiting sequence run; it holds the blocks of its cached prefix already."""
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING

    def requeue(self, sequence: Sequence) -> None:
        """Preempt a running sequence: free its blocks and queue it as the first one. It keeps its tokens."""
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        sequence.status = SequenceStatus.WAITING
        self.kv_cache.free(sequence)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Remove a sequence and free its blocks."""
        (self.running if sequence.status is SequenceStatus.RUNNING else self.waiting).remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
        del self.by_id[sequence.seq_id]
        if reason in ("stop", "length"):
            self.lengths.learn(sequence)
        self.shares.end(sequence)
        self.kv_cache.free(sequence)

    def session_stats(self, num_known: int) -> SessionStats:
        """Return how many of the `num_known` sessions run, wait and do neither."""
        running = {sequence.fair_share for sequence in self.running}
        waiting = {sequence.fair_share for sequence in self.waiting} - running
        num_idle = max(0, num_known - len(running) - len(waiting))
        device_s = {name: count / 1e9 for name, count in self.shares.device_ns.items()}
        return SessionStats(len(running), len(waiting), num_idle, device_s)

    def num_ahead(self, sequence: Sequence) -> int:
        """Return how many waiting sequences go before `sequence`, which waits, as of the last step."""
        if self._placed_s != self.shares.now_s or sequence.seq_id not in self._places:
            order = self.shares.in_order(self.waiting)
            self._places = {one.seq_id: place for place, one in enumerate(order)}
            self._placed_s = self.shares.now_s
        return self._places[sequence.seq_id]
