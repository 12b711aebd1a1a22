"""What bench/micro/http_overhead.py counts."""

import pytest

from pensieve.bench.micro.http_overhead import joint_rate


def test_only_the_time_in_which_all_decode_counts() -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0, 6.0]
    assert joint_rate([early, late]) == (2 + 2) / (4.0 - 2.0)


def test_sequences_that_never_ran_together_have_no_rate() -> None:
    with pytest.raises(ValueError, match="--tokens"):
        joint_rate([[0.0, 1.0], [2.0, 3.0]])
