"""The soak's judge finds what grows; `make soak` and `make faults` let it judge a server."""

import os
import random
from dataclasses import replace

import pytest

from ..budget import LONG
from .figures import Figures
from .mixed_traffic import MixedTraffic
from .slopes import fit_slope
from .soak import MAX_SLOPE, ROUND, Look, judge, latency_ratio, memory_slope, soak

NOISE_BYTES = 256 * 1024
"""That one look's resident memory is off by, at most."""

MINUTES = float(os.environ.get("PENSIEVE_FAULTS_SOAK", "60"))


def looks(growth: float, num_looks: int = 60) -> list[Look]:
    """Return looks at a server whose memory grows by so many bytes a request."""
    rng = random.Random(0)
    first = Look(0, 10**8, 10**8, 20, 14, 6, 10**6, 0, 0.0)
    return [
        replace(
            first,
            requests=number * ROUND,
            resident_bytes=int(10**8 + growth * number * ROUND + rng.uniform(-NOISE_BYTES, NOISE_BYTES)),
        )
        for number in range(1, num_looks + 1)
    ]


def test_a_slope_is_found_with_its_error() -> None:
    slope = fit_slope([(x, 3.0 * x + (-1) ** x) for x in range(100)])
    assert slope.low < 3 < slope.high < 3.02


@pytest.mark.parametrize(("growth", "is_fault"), [(0, False), (2048, True)])
def test_memory_that_grows_is_found(growth: int, is_fault: bool) -> None:
    assert bool(judge(looks(growth), MixedTraffic("http://localhost:1", 0))) == is_fault


@pytest.mark.parametrize("name", ["files", "threads", "tasks", "active_bytes", "held"])
def test_whatever_else_grows_is_found(name: str) -> None:
    seen = looks(0)
    seen[-1] = replace(seen[-1], **{name: getattr(seen[0], name) + 2**21})
    assert len(judge(seen, MixedTraffic("http://localhost:1", 0))) == 1


@pytest.mark.skipif(not LONG, reason="takes an hour, or PENSIEVE_FAULTS_SOAK minutes")
@pytest.mark.parametrize("leak", [0, 2048])
def test_nothing_grows_but_what_was_planted(leak: int, figures: Figures) -> None:
    name = "soak" + (f", {leak} bytes a request leaked" if leak else "")
    asked = "the leak is caught" if leak else f"< {MAX_SLOPE} bytes a request; nothing else grows"
    growth = figures.begin(57, name, asked)
    late = None if leak else figures.begin(57, f"{name}: p99, last tenth / first", "< 1.1")
    seen, traffic = soak(MINUTES / (3 if leak else 1), 10**9, leak, seed=leak)
    faults, slope, last = judge(seen, traffic), memory_slope(seen), seen[-1]
    told = f"{last.requests:,} requests: {slope.value:+.0f} bytes a request "
    told += f"(95 %: {slope.low:+.0f} to {slope.high:+.0f}); "
    told += (
        f"files, threads, tasks {last.constants}; arrays {last.active_bytes - seen[0].active_bytes:+,} bytes"
    )
    if late is None:
        growth.check(told, slope.low > MAX_SLOPE)
        return
    ratio = latency_ratio(traffic)
    late.note(f"{ratio:.2f}", ratio < 1.1)
    growth.check("; ".join([told, *faults]), not faults)
