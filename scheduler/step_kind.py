"""The measured steps of one kind: sums for the fit of `step_cost.py`, and the last few steps.

A kind of steps has some of the parts of which a step's time is made. This module knows their number only.
"""

from collections import deque
from operator import mul

NUM_PARTS = 8
"""Parts of which the time of a step is the sum."""

MEMORY = 100
"""Steps of a kind after which an older step counts 1/e of a new one."""

RECENT = 9
"""Steps of a kind whose median corrects the fit."""

JUMP = 1.5
"""Where a kind's correction is so many times the usual one, or less, the machine has changed its speed."""


class KindOfStep:
    """Sums over the steps of one kind, and the median by which they differ from the fit.

    pairs: pairs of parts (i, j), i >= j, that steps of the kind have.
    products, right: sums over steps of the products of two parts, in the order of `pairs`, and of a part and
    the time, relative to each step's unit.
    correction: the kind's measured time, relative to the fitted one, lately.
    """

    def __init__(self, parts: range) -> None:
        """parts: the parts that steps of the kind have."""
        self.pairs = [(i, j) for i in parts for j in parts if i >= j]
        self.products = [0.0] * len(self.pairs)
        self.right = [0.0] * NUM_PARTS
        self.correction = 1.0
        self._usual = 1.0  # correction
        self._num_steps = 0
        self._recent: deque[tuple[int, list[float], float]] = deque(maxlen=RECENT)

    def add(self, number: int, parts: list[float], elapsed_s: float, unit_s: float) -> None:
        """Add a step, whose number counts steps of all kinds. Its error counts relative to `unit_s`."""
        self._num_steps += 1
        decay = 1 - 1 / MEMORY
        shares, time = [part / unit_s for part in parts], elapsed_s / unit_s
        products = [shares[i] * shares[j] for i, j in self.pairs]
        self.products = [decay * old + new for old, new in zip(self.products, products, strict=True)]
        self.right = [decay * old + share * time for old, share in zip(self.right, shares, strict=True)]
        self._recent.append((number, parts, elapsed_s))

    def correct(self, weights: list[float]) -> tuple[float, int] | None:
        """Set the correction for `weights`.

        Returns by how much the machine has become slower, and the number of a step since then; None where it
        has not. Of two middle steps, the faster one counts.
        """
        ratios = [elapsed_s / max(weighted_sum(weights, parts), 1e-9) for _, parts, elapsed_s in self._recent]
        self.correction = _median(ratios)
        if self._num_steps <= 2 * RECENT:
            self._usual = self.correction
        elif _is_usual(self.correction / self._usual):
            self._usual += (self.correction - self._usual) / RECENT
        else:
            self.correction = self._usual
            change = _median(ratios[RECENT // 2 :]) / self._usual  # the newer half: the others may be old
            return None if _is_usual(change) else (change, self._recent[RECENT // 2][0])
        return None

    def scale(self, factor: float, since: int) -> None:
        """Multiply the times of steps before number `since` by `factor`; in the sums, the times of all."""
        self.products = [product / factor**2 for product in self.products]
        self.right = [value / factor for value in self.right]
        for i, (number, parts, elapsed_s) in enumerate(self._recent):
            self._recent[i] = number, parts, elapsed_s * (factor if number < since else 1)


def _is_usual(change: float) -> bool:
    return 1 / JUMP < change < JUMP


def _median(ratios: list[float]) -> float:
    return sorted(ratios)[(len(ratios) - 1) // 2] if ratios else 1.0


def weighted_sum(weights: list[float], parts: list[float]) -> float:
    """Return the sum of `parts`, each times its weight."""
    total: float = sum(map(mul, weights, parts))
    return total
