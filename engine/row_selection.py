"""Selects rows of an array whose numbers the host knows."""

from itertools import groupby

import mlx.core as mx


def take_rows(array: mx.array, rows: list[int]) -> mx.array:
    """Return `array[rows]`, made of slices; lazy.

    On CUDA MLX compiles its gather for each rank and type when it first runs, 3 s in which all requests wait.
    Rows come in a few runs, because batches change little from step to step.
    """
    runs = [list(run) for _, run in groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0])]
    parts = [array[run[0][1] : run[-1][1] + 1] for run in runs]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)
