"""Solves the system of equations of a least-squares fit whose unknowns must not be negative."""

import math

RIDGE = 1e-9
"""Added to a diagonal of ones, which keeps every pivot above 0, whatever is rounded."""

Matrix = list[list[float]]


def solve_positive(matrix: Matrix, right: list[float]) -> list[float]:
    """Return x of `matrix` x = `right`, but 0 for entries below 0, and the others made to fit.

    matrix: positive definite.
    """
    kept = list(range(len(right)))
    while True:
        found = _solve([[matrix[i][j] for j in kept] for i in kept], [right[i] for i in kept])
        negative = {index for index, value in zip(kept, found, strict=True) if value < 0}
        if not negative:
            result = [0.0] * len(right)
            for index, value in zip(kept, found, strict=True):
                result[index] = value
            return result
        kept = [index for index in kept if index not in negative]


def _solve(matrix: Matrix, right: list[float]) -> list[float]:
    """Solve a positive definite system by elimination, its unknowns scaled to a diagonal of ones."""
    size = len(right)
    units = [1 / math.sqrt(matrix[i][i]) for i in range(size)]
    rows = [[matrix[i][j] * units[i] * units[j] + RIDGE * (i == j) for j in range(size)] for i in range(size)]
    values = [value * unit for value, unit in zip(right, units, strict=True)]
    for i in range(size):
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            for k in range(i, size):
                rows[j][k] -= factor * rows[i][k]
            values[j] -= factor * values[i]
    result = [0.0] * size
    for i in reversed(range(size)):
        rest = values[i] - sum(rows[i][k] * result[k] for k in range(i + 1, size))
        result[i] = rest / rows[i][i]
    return [value * unit for value, unit in zip(result, units, strict=True)]
