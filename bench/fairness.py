"""How evenly a server treats its sessions: Jain's index, waits, what a session's subagents cost others."""

from collections import abc
from dataclasses import dataclass
from itertools import pairwise

from .fleet import PlayedTrace, Record


@dataclass(frozen=True, slots=True)
class Waits:
    """The longest time without a token of each request, in seconds: median, largest, and whose that is."""

    median_s: float
    longest_s: float
    session: int  # from 1

    @property
    def starvation(self) -> float:
        """The longest wait over the median: 1 where nobody waits longer than others."""
        return self.longest_s / self.median_s if self.median_s else 1.0


@dataclass(frozen=True, slots=True)
class CrowdCost:
    """Turn times of all sessions but the first, without and with its crowd of subagents. Seconds."""

    subagents: int
    mean_without_s: float
    mean_with_s: float
    longest_wait_without_s: float
    longest_wait_with_s: float

    @property
    def ratio(self) -> float:
        """How many times as long the others' turns take beside the crowd."""
        return self.mean_with_s / self.mean_without_s


def jain(shares: abc.Sequence[float]) -> float:
    """Return Jain's fairness index, from 1/n to 1; 1 for no shares. Source: Jain, Chiu and Hawe 1984."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def longest_wait_s(record: Record) -> float:
    """Return the longest time that a request was without a new token, from sending it to its end."""
    ends = (0.0, *record.delta_s) if record.outcome == "done" else (0.0, *record.delta_s, record.end_s)
    return max((later - earlier for earlier, later in pairwise(ends)), default=record.end_s)


def waits(records: abc.Sequence[Record]) -> Waits | None:
    """Return the waits of a fleet; None where no request was answered."""
    answered = [record for record in records if record.outcome != "error"]
    if not answered:
        return None
    ordered = sorted(answered, key=longest_wait_s)
    middle = ordered[(len(ordered) - 1) // 2]
    return Waits(longest_wait_s(middle), longest_wait_s(ordered[-1]), ordered[-1].session + 1)


def crowd_cost(without: PlayedTrace, beside: PlayedTrace, subagents: int) -> CrowdCost | None:
    """Return what session 1's crowd costs the others; None where one of the runs has no turn of theirs."""
    runs = [[record for record in run.records if record.session > 0] for run in (without, beside)]
    times = [[record.turn_s for record in run if record.turn_s is not None] for run in runs]
    if not all(times):
        return None
    means = [sum(own) / len(own) for own in times]
    longest = [max(map(longest_wait_s, run)) for run in runs]
    return CrowdCost(subagents, means[0], means[1], longest[0], longest[1])
