"""Counts of prompts that were asked for before, by the bytes of the request."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

MAX_COUNTS = 4096  # each a few hundred bytes


class Counts:
    """The latest counts, and those that are being made: editors ask for the same many times at once."""

    def __init__(self) -> None:
        self._counts: OrderedDict[bytes, asyncio.Future[int]] = OrderedDict()

    async def get(self, body: bytes, count: Callable[[], Awaitable[int]]) -> int:
        """Return what `count` gives for a body, called at most once at a time. Raises what it raises."""
        key = hashlib.sha256(body).digest()
        known = self._counts.get(key)
        if known is None:
            known = self._counts[key] = asyncio.ensure_future(count())
            known.add_done_callback(lambda future: self._keep(key, future))
        self._counts.move_to_end(key)
        # A client that leaves must not take the count from the others.
        return await asyncio.shield(known)

    def _keep(self, key: bytes, future: "asyncio.Future[int]") -> None:
        if future.cancelled() or future.exception() is not None:
            del self._counts[key]
        while len(self._counts) > MAX_COUNTS:
            self._counts.popitem(last=False)
