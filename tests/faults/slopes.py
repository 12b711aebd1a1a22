"""A straight line through measured points, and how sure its slope is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CERTAIN = 1.96
"""Standard errors to either side of a slope, between which 95 % of true slopes lie."""


@dataclass(frozen=True, slots=True)
class Slope:
    """What y grows by for each x, and between which bounds that lies with a certainty of 95 %."""

    value: float
    low: float
    high: float


def fit_slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit a line to at least three points (x, y) by least squares."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    value = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    misses = sum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(misses / (count - 2) / spread)
    return Slope(value, value - CERTAIN * error, value + CERTAIN * error)
