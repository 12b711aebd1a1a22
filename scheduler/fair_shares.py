"""Each session's fair share of the device: who goes first, who waits, and who makes room.

Each measured step is divided among its decode rows and slices (`StepCost.divide`), and each part is charged
to the session that it was computed for. A session's virtual time is what it has been charged, divided by its
weight. The fair level is the weighted mean of the virtual times of all sessions with unfinished requests; a
session's lead is how far it is above that level. Where several sessions want the device, those that lead
least go first, so that all virtual times grow alike.

    lead in seconds:   -CREDIT_S .......... 0 .......... BURST_S .......... DEBT_S
                       owed the most    fair level       no slices beside   more is not
                       that counts                       others' rows       remembered

A session falls behind by `CREDIT_S` at most: one that asks for little does not hoard what others use
meanwhile. It leads by `DEBT_S` at most: what nobody else wanted is no debt. Where its key has a small
share, these are seconds of the device still, not virtual ones: a few answers of a full batch are as
much. A new session begins at the fair level, or with the lead of a brief one of its owner that is idle; one
that comes back `CREDIT_S` below the level at most.

Sessions whose leads differ by less than `QUANTUM_S` count as equal. Then the class of the request decides
(side requests, the main agent, its subagents, background work), then the order of arrival. Waiting raises a
class. A session that is alone is always at the level, so that only classes matter to it.

The only clock is the device's time. So the first request of a session waits no longer, in seconds of the
device, than it takes to bring all other sessions up to it: `CREDIT_S` + `DEBT_S` for each, and what
runs; with `DEBT_S` divided by the session's weight where that is below 1.

Sources of the idea: start-time fair queueing (Goyal, Vin and Cheng 1996), where the idle begin at the current
virtual time, and the virtual token counter (Sheng et al. 2024, Fairness in Serving Large Language Models),
which charges the sequences of a shared batch by their cost. Both take the least virtual time as the level;
here the level is the mean, which a session that cannot use its share does not hold back.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from .fair_share import FairShare
from .origin import Account, WorkClass
from .sequence import Sequence

CREDIT_S = 4.0
"""Most that a session can be owed, in seconds of the device."""

DEBT_S = 8.0
"""Most by which a session can lead, in seconds of the device."""

BURST_S = 6.0
"""Lead from which on a session's prompts get no slices beside the decode rows of other sessions."""

QUANTUM_S = 1.0
"""Sessions whose leads differ by less count as equal, so that prompts are not computed in turns."""

SIDE_S = 2.0
"""Lead that a session's side requests do not feel: they go before those of other sessions so far."""

BRIEF = 3
"""Most requests of a session whose lead a new one of its owner begins with."""

AGING_S = 30.0
"""Seconds of the device after which a request that waits counts as one of the next better class."""

RANKS: dict[WorkClass, int] = {"auxiliary": 0, "main": 1, "subagent": 2, "background": 3}

Beneficiaries = dict[Sequence, tuple[Sequence, ...]]
"""Sequences with tokens to prefill, each with itself and all that wait for the prefix that it computes."""


class FairShares:
    """The shares of all sessions with unfinished requests, and the order that follows from them.

    device_ns: the device's time in all charged steps, by class of work. now_s: the same, in all.
    """

    def __init__(self) -> None:
        self.device_ns: dict[WorkClass, int] = dict.fromkeys(RANKS, 0)
        self.now_s = 0.0
        self._level_s = 0.0
        self._active: dict[FairShare, None] = {}  # in order of their first request; see `end`
        self._num_sessions: Counter[Account] = Counter()  # active ones

    def begin(self, sequence: Sequence, share: FairShare) -> None:
        """Note that `sequence`, whose session has `share`, has arrived."""
        sequence.fair_share, sequence.arrival_device_s = share, self.now_s
        share.num_active += 1
        share.num_begun += 1
        if share.num_active == 1 and share not in self._active:
            share.account = sequence.request.origin.account  # whose share may be another one by now
            least_s = self._level_s - CREDIT_S if share.usage.device_ns else self._beginning_s(share)
            share.virtual_s = max(share.virtual_s, least_s)
            self._active[share] = None
            self._num_sessions[share.account] += 1
            self._find_level()

    def _beginning_s(self, share: FairShare) -> float:
        """Return where a new session begins: at the fair level, without credit, or above.

        A client may send another name with each turn. So one of the owner's brief sessions that wait for
        nothing, the one that leads least, passes its place among the active ones on: else each name would
        begin before the level has reached the last one, and sessions that last would share the device with
        more sessions than there are. It keeps its own lead, should it ask again. Sessions that have lasted
        pass nothing on: where many people send one key, most of an owner's sessions are other people's.
        """
        idle = [one for one in self._active if not one.num_active and one.num_begun <= BRIEF]
        own = [one for one in idle if one.owner == share.owner and one.account == share.account]
        if not own:
            return self._level_s
        last = min(own, key=lambda one: one.virtual_s)
        self._leave(last)
        return last.virtual_s

    def end(self, sequence: Sequence) -> None:
        """Note that `sequence` has ended. Steps already planned for it are still charged.

        A session that leads counts as active until the level has reached it: else sessions of one request
        each would take what they had along, and those that last would lead for ever.
        """
        sequence.fair_share.num_active -= 1
        self._find_level()
        if not any(share.num_active for share in self._active):
            for share in list(self._active):
                self._leave(share)

    def _leave(self, share: FairShare) -> None:
        del self._active[share]
        self._num_sessions[share.account] -= 1
        if not self._num_sessions[share.account]:
            del self._num_sessions[share.account]

    def charge(
        self, payers: Iterable[tuple[Sequence, ...]], costs_ns: Iterable[int], now_s: float = 0.0
    ) -> None:
        """Charge a measured step.

        payers: of each part of the step, those who share its cost. now_s: by the clock of `SessionUsage`.
        """
        due_ns: defaultdict[FairShare, int] = defaultdict(int)
        for sequences, cost_ns in zip(payers, costs_ns, strict=True):
            left_ns = cost_ns
            for num_left in range(len(sequences), 0, -1):
                sequence, part_ns = sequences[num_left - 1], left_ns // num_left
                left_ns -= part_ns
                self.device_ns[sequence.work_class] += part_ns
                due_ns[sequence.fair_share] += part_ns
        for share, share_ns in due_ns.items():
            share.usage.charge(share_ns, now_s)
            share.virtual_s += share_ns / 1e9 / self._weight(share)
            self.now_s += share_ns / 1e9
        self._find_level()

    def urgency(self, sequence: Sequence) -> tuple[int, int]:
        """Return by what `sequence` goes before those with larger values; among equals, the first one does.

        The first number is the session's lead in quanta, the second one the rank of the request's class.
        """
        lead_s, rank = self.lead_s(sequence.fair_share), RANKS[sequence.work_class]
        if rank == 0:
            return round((lead_s - SIDE_S) / QUANTUM_S), 0
        num_raised = int((self.now_s - sequence.arrival_device_s) / AGING_S)
        return round(lead_s / QUANTUM_S), max(1, rank - num_raised)

    def lead_s(self, share: FairShare) -> float:
        """Return by how much a session is above the fair level, in virtual seconds."""
        return share.virtual_s - self._level_s

    def in_order(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Return the sequences, the most entitled first."""
        return sorted(sequences, key=self.urgency)

    def least_entitled(self, running: Collection[Sequence]) -> Sequence:
        """Return which of the running sequences, in order of admission, makes room for others."""
        return max(reversed(list(running)), key=self.urgency)

    def displaced(self, running: Collection[Sequence], waiting: Iterable[Sequence]) -> Sequence | None:
        """Return which running sequence leaves its place in a full batch to a waiting one; None for none.

        It is of a session that has had more than the other one, by `CREDIT_S`, and has more places. A side
        request gets a place at once, unless its session leads.
        """
        if not running:
            return None
        victim = self.least_entitled(running)
        most_s = victim.fair_share.virtual_s - CREDIT_S
        owed = [one for one in waiting if not RANKS[one.work_class] or one.fair_share.virtual_s <= most_s]
        candidate = min(owed, key=self.urgency, default=None)
        if candidate is None:
            return None
        if not RANKS[candidate.work_class]:
            return victim if self.urgency(candidate) < min(self.urgency(victim), (0, 0)) else None
        num_places = Counter(sequence.fair_share for sequence in running)
        return victim if num_places[candidate.fair_share] < num_places[victim.fair_share] else None

    def slice_groups(
        self, prefilling: Beneficiaries, decoding: Collection[FairShare]
    ) -> list[list[Sequence]]:
        """Return the sequences that may have a slice in the next step, by urgency, the most entitled first.

        prefilling: in order of admission, which each group keeps. A sequence is as urgent as the most urgent
        of its beneficiaries. decoding: of the sessions that have rows in the step.
        """
        groups: dict[tuple[int, int], list[Sequence]] = {}
        for sequence, beneficiaries in prefilling.items():
            if not all(self._is_held_back(one.fair_share, decoding) for one in beneficiaries):
                groups.setdefault(min(map(self.urgency, beneficiaries)), []).append(sequence)
        return [groups[urgency] for urgency in sorted(groups)]

    def _is_held_back(self, share: FairShare, decoding: Collection[FairShare]) -> bool:
        """Whether slices for a session would take too much from the rows of sessions that have had less."""
        if self.lead_s(share) <= BURST_S:
            return False
        return any(other.virtual_s < share.virtual_s for other in decoding)

    def _weight(self, share: FairShare) -> float:
        """Return what a session has of the device, as a multiple of what active sessions have on average.

        The sessions of an account divide the account's share, whatever their number.
        """
        mean = sum(account.share for account in self._num_sessions) / max(1, len(self._active))
        own = share.account.share / max(1, self._num_sessions[share.account])
        return own / mean if mean else 1.0

    def _find_level(self) -> None:
        """Find the fair level, keep all active sessions within their bounds about it, and let others go."""
        weights = [self._weight(share) for share in self._active]
        if not weights:
            return
        weighted = sum(weight * one.virtual_s for weight, one in zip(weights, self._active, strict=True))
        self._level_s = weighted / sum(weights)
        for share, weight in zip(list(self._active), weights, strict=True):
            least_s, most_s = self._level_s - CREDIT_S, self._level_s + DEBT_S / min(1.0, weight)
            share.virtual_s = min(max(share.virtual_s, least_s), most_s)
            if not share.num_active and share.virtual_s <= self._level_s:
                self._leave(share)
