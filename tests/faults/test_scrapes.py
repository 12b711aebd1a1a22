"""Prometheus reads the metrics again and again while requests of all kinds come and go."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ..budget import trials
from .figures import Figures, count_told
from .mixed_traffic import MixedTraffic
from .watched_server import WatchedServer

SECRET = "zebra-in-a-label"
MAX_SERIES = 1500

Series = tuple[str, tuple[tuple[str, str], ...]]


def test_scrapes_under_load_only_count_up(server: WatchedServer, figures: Figures) -> None:
    asked = f"counters never fall; no path or user agent in labels; < {MAX_SERIES} series"
    scrapes = figures.begin(47, "scrapes under load", asked)
    times = figures.begin(47, "scrapes under load: time", "p99 < 20 ms")
    num_scrapes, num_requests = trials(10, 10, long=1000), trials(30, 30, long=1500)
    traffic = MixedTraffic(server.url, seed=47)
    seconds, fell, num_series = list[float](), set[Series](), list[int]()
    last: dict[Series, float] = {}
    with (
        server.undisturbed(figures, 47, "scrapes under load"),
        ThreadPoolExecutor(4) as clients,
        httpx.Client() as scraper,
    ):
        scraper.get(f"{server.url}/{SECRET}", headers={"user-agent": SECRET})
        done = [clients.submit(traffic.send, number) for number in range(num_requests)]
        for _ in range(num_scrapes):
            begun_s = time.perf_counter()
            text = scraper.get(f"{server.url}/metrics", timeout=60).text
            seconds.append(time.perf_counter() - begun_s)
            assert SECRET not in text
            counters = read_counters(text)
            fell |= {series for series, value in last.items() if counters.get(series, 0) < value}
            num_series.append(len(counters))
            last = counters
        for one in done:
            one.result()
    assert not traffic.wrong
    slow_s = statistics.quantiles(seconds, n=100)[98]
    times.note(f"{1000 * slow_s:.0f} ms of {num_scrapes}", slow_s < 0.02)
    told = f"{count_told(num_scrapes, 1000)} scrapes: {len(fell)} fell; "
    told += f"{num_series[0]}, then {num_series[-1]} series"
    scrapes.check(told, not fell and num_series[-1] < MAX_SERIES)


def read_counters(text: str) -> dict[Series, float]:
    """Return the values of all series that only count up."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
