"""How long conversations stay away: medians of the gaps seen lately, by what they waited for."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from statistics import median

MAX_KEPT = 16
"""Gaps that are kept of a kind."""

FEWEST = 3
"""Gaps of which a median says something."""

MAX_KINDS = 2048

Kind = tuple[str, ...]


class LearnedGaps:
    """Gaps in seconds by their kind. A median shrugs off the user who left for lunch during a permission."""

    def __init__(self) -> None:
        self._gaps: OrderedDict[Kind, deque[float]] = OrderedDict()  # the kinds used longest ago come first

    def add(self, kinds: Iterable[Kind], gap_s: float) -> None:
        """Note a gap, which is of each of `kinds`."""
        for kind in kinds:
            self._gaps.setdefault(kind, deque(maxlen=MAX_KEPT)).append(gap_s)
            self._gaps.move_to_end(kind)
        while len(self._gaps) > MAX_KINDS:
            self._gaps.popitem(last=False)

    def expected(self, kinds: Iterable[Kind], default_s: float) -> float:
        """Return the median of the first of `kinds` of which enough gaps are known, else `default_s`."""
        for kind in kinds:
            gaps = self._gaps.get(kind)
            if gaps is not None and len(gaps) >= FEWEST:
                return median(gaps)
        return default_s
