"""A cache of prompts' token counts, by the hash of the request's body and of its API key."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from .prompt import PromptCount

MAX_COUNTS = 4096  # each a few hundred bytes
LARGE_BODY_BYTES = 1024 * 1024  # hashed in a thread, which 24 MB keep busy for 50 ms


class Counts:
    """The MAX_COUNTS latest counts, finished or under way: editors ask for one count many times at once."""

    def __init__(self) -> None:
        self._counts: OrderedDict[bytes, asyncio.Future[PromptCount]] = OrderedDict()

    async def get(
        self, owner: bytes, body: bytes, count: Callable[[], Awaitable[PromptCount]]
    ) -> PromptCount:
        """Return a body's count, from the cache or from `count`. Equal requests of one key share one run.

        owner: digest of the API key, whose kept replies the prompt may hold. Raises what `count` raises; a
        failure is not cached.
        """
        key = (
            _key(owner, body) if len(body) < LARGE_BODY_BYTES else await asyncio.to_thread(_key, owner, body)
        )
        known = self._counts.get(key)
        if known is None:
            known = self._counts[key] = asyncio.ensure_future(count())
            known.add_done_callback(lambda future: self._keep(key, future))
        self._counts.move_to_end(key)
        # A client that disconnects must not cancel the count for the others.
        return await asyncio.shield(known)

    def _keep(self, key: bytes, future: "asyncio.Future[PromptCount]") -> None:
        if future.cancelled() or future.exception() is not None:
            del self._counts[key]
        while len(self._counts) > MAX_COUNTS:
            self._counts.popitem(last=False)


def _key(owner: bytes, body: bytes) -> bytes:
    found = hashlib.sha256(owner)
    found.update(body)
    return found.digest()
