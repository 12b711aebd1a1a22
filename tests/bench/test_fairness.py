"""Waits and shares, worked out by hand."""

import pytest

from pensieve.bench.fairness import crowd_cost, longest_wait_s, waits
from pensieve.bench.fleet import PlayedTrace

from .test_summary import record


def test_a_wait_is_the_longest_time_without_a_token() -> None:
    assert longest_wait_s(record(delta_s=[1.0, 1.5, 4.0], end_s=9.0)) == 2.5
    assert longest_wait_s(record(delta_s=[3.0, 3.5], end_s=9.0, outcome="cancelled")) == 5.5
    assert longest_wait_s(record(delta_s=[], end_s=9.0)) == 9.0


def test_the_longest_wait_is_told_beside_the_median() -> None:
    records = [record(session, delta_s=[wait_s]) for session, wait_s in enumerate((1.0, 8.0, 2.0))]
    found = waits([*records, record(outcome="error", end_s=99.0)])
    assert found is not None
    assert (found.session, found.longest_s, found.median_s, found.starvation) == (2, 8.0, 2.0, 4.0)
    assert waits([record(outcome="error")]) is None


def test_a_crowd_costs_what_it_adds_to_the_turns_of_the_others() -> None:
    def run(others_s: float) -> PlayedTrace:
        return PlayedTrace([record(delta_s=[99.0]), record(1, delta_s=[0.5, others_s])], 10.0)

    cost = crowd_cost(run(2.0), run(5.0), 10)
    assert cost is not None
    assert (cost.ratio, cost.longest_wait_without_s) == (2.5, 1.5)
    assert cost.longest_wait_with_s == pytest.approx(4.5)
    assert crowd_cost(run(2.0), PlayedTrace([record()], 1.0), 10) is None
