"""What becomes of sequences after a step has failed."""

from collections.abc import Iterable

from ..engine.step import StepPlan
from .memory import Memory
from .roster import Roster
from .sequence import Sequence, SequenceStatus


class Recovery:
    """Starts everybody anew, and tries the sequences of a failed step one at a time, to find the culprit."""

    def __init__(self, roster: Roster, memory: Memory) -> None:
        self._roster = roster
        self._memory = memory
        self._suspects: list[Sequence] = []

    def begin(self, planned: Iterable[StepPlan]) -> Sequence | None:
        """Trust nothing computed so far: every sequence starts anew from its tokens.

        planned: the steps whose results will not come. Their sequences are suspects from now on; one that
        was alone in them is returned instead: it is the culprit, and the caller's to end.
        """
        involved = {seq_id for plan in planned for seq_id in plan.seq_ids}
        failed = [sequence for seq_id, sequence in self._roster.by_id.items() if seq_id in involved]
        for sequence in self._roster.by_id.values():
            sequence.num_pending = 0
        for sequence in reversed(list(self._roster.running)):
            self._roster.requeue(sequence)
        self._memory.distrust()
        if len(failed) == len(involved) == 1:
            return failed[0]
        self._suspects += [sequence for sequence in failed if sequence not in self._suspects]
        return None

    def candidates(self) -> list[Sequence]:
        """Who may start to run, in order: all that wait, or a suspect alone while there are any."""
        if not self._suspects:
            return list(self._roster.waiting)
        return [] if self._roster.running else self._suspects[:1]

    def acquit(self, sequence: Sequence) -> None:
        """It got a token: a suspect that does so is innocent, and waits until the others have been tried."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)
            if self._suspects and sequence.status is SequenceStatus.RUNNING:
                self._roster.requeue(sequence)

    def forget(self, sequence: Sequence) -> None:
        """It has ended: nothing is left to try."""
        if sequence in self._suspects:
            self._suspects.remove(sequence)
