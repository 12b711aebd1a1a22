"""What bench/micro/http_overhead.py counts."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "micro" / "http_overhead.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_only_the_time_in_which_all_decode_counts(script: dict[str, Any]) -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0, 6.0]
    assert script["joint_rate"]([early, late]) == (2 + 2) / (4.0 - 2.0)


def test_sequences_that_never_ran_together_have_no_rate(script: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--tokens"):
        script["joint_rate"]([[0.0, 1.0], [2.0, 3.0]])
