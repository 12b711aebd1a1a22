"""Compiles few grammars at a time, in threads of their own. A slow one goes on, but holds no other up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .deep_stack import on_deep_stack

MAX_COMPILING = 2
"""Grammars that are compiled at once, slow ones aside."""

MAX_SLOW = 4
"""Slow ones that go on beside them. While so many do, nothing else is compiled but what is quick."""

TURN_S = 15.0
"""Seconds after which a compilation is slow. No thread can be ended, and so it goes on."""

T = TypeVar("T")


class CompileTurns:
    """Gives each compilation its turn."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MAX_COMPILING)
        self._threads = ThreadPoolExecutor(MAX_COMPILING + MAX_SLOW, thread_name_prefix="compile")

    async def run(self, code: Callable[[], T]) -> T:
        """Run `code` in its turn and return its result. The turn ends after TURN_S at the latest."""
        async with self._turns:
            work = asyncio.get_running_loop().run_in_executor(self._threads, on_deep_stack, code)
            await asyncio.wait({work}, timeout=TURN_S)
        return await work
