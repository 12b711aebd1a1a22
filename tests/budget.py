"""How much of the suite a run is given: `make test` takes a sample, `make test-all` everything.

`make test-all` sets PENSIEVE_TESTS=all. Tests that are marked `slow` run there only; others draw fewer random
cases in `make test`, with the same code and the same judge.
"""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest

EVERYTHING = os.environ.get("PENSIEVE_TESTS") == "all"

LONG = os.environ.get("PENSIEVE_FAULTS_LONG") == "1"
"""Whether `make faults` runs: the acceptance suite of docs/reliability.md in full."""


def trials(sample: int, full: int, variable: str = "", long: int = 0) -> int:
    """How many random cases to try; an environment variable, where one is named, overrides the counts.

    long: the count of `make faults`, where it is another than `full`.
    """
    count = full if EVERYTHING else sample
    count = long if LONG and long else count
    return int(os.environ.get(variable, count)) if variable else count


def sampled(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Mark all cases of a parametrised test as slow but those of the sample."""
    params = list(cases)
    assert all(case in params for case in kept)
    return [case if case in kept else _slow(case) for case in params]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
