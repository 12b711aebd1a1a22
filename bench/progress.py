"""A progress bar of the requests that have ended."""

import time
from typing import TextIO

from .fleet import Record

WIDTH = 30


class ProgressBar:
    """Called with the record of each request that has ended. Prints nothing unless `output` is a terminal."""

    def __init__(self, name: str, total: int, output: TextIO) -> None:
        self._name = name
        self._total = total
        self._output = output
        self._shows = output.isatty()
        self._started_s = time.monotonic()
        self._num_ended = self._num_tokens = self._num_errors = 0
        self._show()

    def __call__(self, record: Record) -> None:
        """Count the request and redraw the bar."""
        self._num_ended += 1
        self._num_tokens += record.num_output
        self._num_errors += record.outcome == "error"
        self._show()

    def close(self) -> None:
        """End the bar's line."""
        if self._shows:
            print(file=self._output)

    def _show(self) -> None:
        if not self._shows:
            return
        filled = "#" * (WIDTH * self._num_ended // self._total)
        errors = f", {self._num_errors} errors" if self._num_errors else ""
        elapsed_s = time.monotonic() - self._started_s
        counts = (
            f"{self._num_ended}/{self._total} requests, {self._num_tokens} tokens{errors}, {elapsed_s:.0f} s"
        )
        print(f"\r{self._name} [{filled:<{WIDTH}}] {counts} ", end="", file=self._output, flush=True)
