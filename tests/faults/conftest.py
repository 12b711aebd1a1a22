"""Fixtures of the acceptance suite, and what writes its table.

All tests here are slow: `make test` leaves them out. Rows travel in the tests' reports, because with `-n`
tests run in other processes than the one that writes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .figures import DOCUMENT, Figures, Row, rows_of, write_rows
from .watched_server import WatchedServer, watched_server

ROWS = pytest.StashKey[list[Row]]()

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.pluginmanager.register(TableWriter(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the suite's tests as slow, before slow tests are left out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


class TableWriter:
    """Gathers the rows of all tests, and writes them with PENSIEVE_FAULTS=write."""

    def __init__(self, config: pytest.Config) -> None:
        self._rows = config.stash[ROWS]
        self._is_worker = "PYTEST_XDIST_WORKER" in os.environ

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            self._rows += rows_of(report)

    def pytest_sessionfinish(self) -> None:
        if os.environ.get("PENSIEVE_FAULTS") == "write" and not self._is_worker and self._rows:
            write_rows(DOCUMENT, self._rows)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for row in sorted(self._rows, key=lambda row: row.number):
            terminalreporter.write_line(row.line())


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """What notes this test's figures."""
    return Figures(request.node)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    """A server with the demo model that the tests share."""
    with watched_server(tmp_path_factory.mktemp("server")) as running:
        yield running
