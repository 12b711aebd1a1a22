"""Snapshots: for as many pages as watch, and none for nobody."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, cast

from pensieve.api.reports.request_log import RequestLog
from pensieve.api.reports.request_report import Ending
from pensieve.api.services import Services
from pensieve.api.status.request_rows import RequestRows
from pensieve.api.status.status_feed import StartFacts, StatusFeed, Viewer

from ...fakes import FakeModel, ScriptedScheduler
from ..reports.test_request_log import report, stream


class CountingScheduler(ScriptedScheduler):
    """Counts the snapshots that are made."""

    num_asked = 0

    def stats(self) -> Any:
        self.num_asked += 1
        return super().stats()


def make_feed(scheduler: ScriptedScheduler, log: RequestLog | None = None) -> StatusFeed:
    parts = SimpleNamespace(scheduler=scheduler, model=FakeModel(), requests=log or RequestLog())
    return StatusFeed(cast(Services, parts), Viewer(b"", ""), tick_s=0.0)


def data(event: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.split(b"data: ")[1])
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event)
            await asyncio.sleep(0.001)


async def ticks(page: AsyncGenerator[bytes, None], count: int) -> list[dict[str, Any]]:
    return [data(await anext(page)) for _ in range(count)]


def test_nothing_is_done_while_nobody_watches() -> None:
    async def run() -> None:
        scheduler = CountingScheduler()
        feed = make_feed(scheduler)
        await asyncio.sleep(0)
        assert (scheduler.num_asked, feed.is_at_work) == (0, False)
        first, second = feed.watch(StartFacts("a plan", "a line")), feed.watch(StartFacts())
        assert data(await anext(first))["plan"] == "a plan"
        assert data(await anext(second))["model"] == FakeModel().name
        await ticks(first, 3)
        await ticks(second, 3)
        assert scheduler.num_asked < 12, "both pages get the same snapshots"
        await first.aclose()
        assert (feed.num_watchers, feed.is_at_work) == (1, True)
        await second.aclose()
        await until(lambda: not feed.is_at_work)
        asked = scheduler.num_asked
        await asyncio.sleep(0.01)
        assert (scheduler.num_asked, feed.num_watchers) == (asked, 0)
        third = feed.watch(StartFacts())
        await ticks(third, 2)
        await third.aclose()

    asyncio.run(run())


def test_a_page_that_reads_slowly_misses_snapshots_and_holds_up_nobody() -> None:
    async def run() -> None:
        scheduler = CountingScheduler()
        feed = make_feed(scheduler)
        slow, fast = feed.watch(StartFacts()), feed.watch(StartFacts())
        await ticks(slow, 2)
        before = scheduler.num_asked
        await ticks(fast, 20)
        assert scheduler.num_asked >= before + 10
        await ticks(slow, 1)
        for page in (slow, fast):
            await page.aclose()

    asyncio.run(run())


def test_all_pages_end_with_the_server() -> None:
    async def run() -> None:
        scheduler = ScriptedScheduler()
        feed = make_feed(scheduler)
        pages = [feed.watch(StartFacts()) for _ in range(3)]
        for page in pages:
            await ticks(page, 2)
        scheduler.state = "stopping"
        ends = [[data(event)["stats"]["state"] async for event in page] for page in pages]
        assert ends[0][-1] == "stopping"
        assert (feed.num_watchers, feed.is_at_work) == (0, False)

    asyncio.run(run())


def test_a_request_ends_once_and_its_row_is_made_once() -> None:
    log, rows = RequestLog(), RequestRows()
    reports = [report(number) for number in range(3)]
    for one in reports:
        log.begin(one, stream())
    assert rows.ended(log.latest(b"", 50)) == []
    assert [cast(dict[str, Any], row)["outcome"] for row in rows.rows(log.latest(b"", 50))] == [None] * 3
    reports[0].end(Ending("stop", 7, [1, 2], []))
    assert [point.num_generated for point in rows.ended([])] == [7], "even where it is no longer the latest"
    made = rows.rows(log.latest(b"", 50))
    assert json.loads(cast(str, made[2]))["outcome"] == "stop"
    assert rows.rows(log.latest(b"", 50))[2] is made[2]
    assert rows.ended(log.latest(b"", 50)) == []


def test_the_past_of_the_charts_is_that_of_the_reports() -> None:
    async def run() -> None:
        log = RequestLog()
        for number in range(100):
            log.begin(own := report(number), stream())
            if number:
                own.end(Ending("stop", number, [], []))
        page = make_feed(ScriptedScheduler(), log).watch(StartFacts())
        points = data(await anext(page))["points"]
        assert [point[5] for point in points] == list(range(1, 100))
        await page.aclose()

    asyncio.run(run())
