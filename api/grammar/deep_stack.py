"""Runs code that recurses very deeply.

llguidance follows references between definitions by recursion in native code: a chain of a thousand overflows
a stack of the usual size, which ends the process. A schema within the bounds needs 40 MB at most.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

STACK_BYTES = 256 << 20  # of addresses; memory is taken as the stack grows

_size_lock = threading.Lock()  # the stack size of new threads is a setting of the whole process

T = TypeVar("T")


def on_deep_stack(code: Callable[[], T]) -> T:
    """Run `code` in a thread of its own, wait for it and return its result. Raises what `code` raises."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(code())
        except BaseException as error:  # result() raises it in the waiting thread
            result.set_exception(error)

    with _size_lock:
        usual = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(usual)
    return result.result()
