"""What bench/micro/stream_cost.py counts."""

import pytest

from pensieve.bench.micro.stream_cost import cost_us, main


def test_only_the_time_in_which_all_decode_counts() -> None:
    marks = [(0, 0.0), (1, 1.0), (2, 4.0), (2, 4.5), (2, 5.0), (1, 9.0)]
    assert cost_us(marks, batch=2) == pytest.approx(1e6 * (5.0 - 4.0) / (2 + 2))


def test_sequences_that_never_ran_together_have_no_cost() -> None:
    with pytest.raises(ValueError, match="--tokens"):
        cost_us([(1, 0.0), (1, 1.0), (2, 2.0)], batch=2)


@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
def test_both_protocols_are_measured(protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"--protocol={protocol}", "--batch=2", "--tokens=20", "--tools=1", "--repeat=1"])
    name, cost, unit, *_ = capsys.readouterr().out.split()
    assert (name, unit) == (protocol, "us/token")
    assert float(cost) > 0
