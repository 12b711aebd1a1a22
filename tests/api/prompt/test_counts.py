"""Counts are made once for what is asked many times."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pensieve.api.prompt import counts
from pensieve.api.prompt.counts import Counts
from pensieve.api.prompt.prompt import PromptCount


class Counter:
    """Counts bytes, slowly, and how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.go_on = asyncio.Event()

    def of(self, body: bytes) -> Callable[[], Awaitable[PromptCount]]:
        async def count() -> PromptCount:
            self.num_calls += 1
            await self.go_on.wait()
            if not body:
                raise ValueError("nothing to count")
            return PromptCount(len(body), None)

        return count


def test_many_at_once_and_those_after_them_get_one_count() -> None:
    async def scenario() -> None:
        known, counter = Counts(), Counter()
        asked = [asyncio.create_task(known.get(b"key", b"abc", counter.of(b"abc"))) for _ in range(5)]
        await asyncio.sleep(0)
        asked[0].cancel()  # the one that began it leaves
        counter.go_on.set()
        assert await asyncio.gather(*asked[1:]) == [PromptCount(3, None)] * 4
        assert (await known.get(b"key", b"abc", counter.of(b"abc"))).num_tokens == 3
        assert (await known.get(b"key", b"abcd", counter.of(b"abcd"))).num_tokens == 4
        assert counter.num_calls == 2
        await known.get(b"other", b"abc", counter.of(b"abc"))
        assert counter.num_calls == 3  # the replies that are kept for another key may make another count

    asyncio.run(scenario())


def test_a_failure_is_not_kept() -> None:
    async def scenario() -> None:
        known, counter = Counts(), Counter()
        counter.go_on.set()
        for _ in range(2):
            with pytest.raises(ValueError, match="nothing to count"):
                await known.get(b"key", b"", counter.of(b""))
        assert counter.num_calls == 2

    asyncio.run(scenario())


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(counts, "MAX_COUNTS", 2)
        known, counter = Counts(), Counter()
        counter.go_on.set()
        for body in (b"a", b"bb", b"a", b"ccc", b"a", b"bb"):
            await known.get(b"key", body, counter.of(body))
            await asyncio.sleep(0)
        assert counter.num_calls == 4

    asyncio.run(scenario())
