"""The suite's table is written as the tests measure it."""

import ast
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .covered import COVERED
from .covered_storage import COVERED_STORAGE
from .figures import DOCUMENT, END, FAILED, START, Row, read_rows, rows_of, write_rows
from .watched_server import WatchedServer, is_same


def test_rows_are_sorted_and_those_that_did_not_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{START}{END}\nafter\n")
    other = Row(2, "other", "1", "1", True)
    write_rows(path, [Row(9, "a | b", "1", "2", False), Row(2, "one", "1", "1", True), other])
    write_rows(path, [Row(2, "one", "≤ 3", "2\n3", False)])
    assert read_rows(path.read_text()) == [
        Row(2, "one", "≤ 3", "2 3", False),
        other,
        Row(9, "a | b", "1", "2", False),
    ]
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("after\n")


def test_the_documents_table_can_be_read() -> None:
    numbers = [row.number for row in read_rows(DOCUMENT.read_text(encoding="utf-8"))]
    assert numbers == sorted(numbers)


PLACES = {"begin": 0, "undisturbed": 1}
"""Functions that announce a row, and which of their arguments is its number; the next is what is tried."""


def announced(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the rows that a file announces: number, and a pattern of what is tried."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = {
        ast.unparse(node.targets[0]): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PLACES:
            number, tried = node.args[PLACES[node.func.attr] :][:2]
            end = ": standing probes" if node.func.attr == "undisturbed" else ""
            if isinstance(number, ast.Constant) and isinstance(number.value, int):
                yield number.value, pattern(tried, values) + end


def pattern(tried: ast.expr, values: dict[str, ast.expr]) -> str:
    """Return a pattern of the texts that an expression gives."""
    if isinstance(tried, ast.Constant) and isinstance(tried.value, str):
        return re.escape(tried.value)
    if isinstance(tried, ast.JoinedStr):
        return "".join(pattern(part, {}) for part in tried.values)
    return pattern(values[tried.id], {}) if isinstance(tried, ast.Name) and tried.id in values else ".+"


def test_each_row_is_one_that_the_suite_writes() -> None:
    patterns = [one for path in Path(__file__).parent.glob("*.py") for one in announced(path)]
    patterns += [(case.number, re.escape(case.tried)) for case in (*COVERED, *COVERED_STORAGE)]
    rows = read_rows(DOCUMENT.read_text(encoding="utf-8"))
    assert len(rows) > 50
    unknown = [
        (row.number, row.tried)
        for row in rows
        if not any(row.number == number and re.fullmatch(text, row.tried) for number, text in patterns)
    ]
    assert not unknown


A_TEST = """
from pensieve.tests.faults.figures import Figures

def test_it(request):
    figures = Figures(request.node)
    figure = figures.begin(1, "this", "0")
    time = figures.begin(1, "this: time", "1 s")
    late = figures.begin(1, "that", "0")
    time.note("0.5 s", True)
    figure.check("{measured}", {measured} == 0)
    late.check("0", True)
    assert not {fails}
"""


@pytest.mark.parametrize(
    ("measured", "fails", "reached"), [(0, False, (True, True, True)), (0, True, ()), (1, False, ())]
)
def test_no_row_of_a_failed_test_is_reached(
    tmp_path: Path, measured: int, fails: bool, reached: tuple[bool, ...]
) -> None:
    path = tmp_path / f"test_{measured}_{fails}.py"  # a name that no module has yet
    path.write_text(A_TEST.format(measured=measured, fails=fails))
    seen = Reports()
    pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(path)], [seen])
    (report,) = (report for report in seen.reports if report.when == "call")
    rows = rows_of(report)
    told = ["0", "0.5 s", "0"] if not measured else ["1", "0.5 s", FAILED]
    assert [row.measured for row in rows] == told
    assert tuple(row.reached for row in rows) == (reached or (False, False, False))


class Reports:
    """A plugin that keeps the reports of a run within this one."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


def test_a_server_that_holds_what_it_did_not_before_is_found(server: WatchedServer) -> None:
    """The probes' own negative control: a connection that stays open is a file descriptor and a task."""
    before = server.settled()
    with socket.create_connection(("127.0.0.1", server.port)) as held:
        held.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        held.recv(2**16)
        look = server.settled()
        assert (look.fds, look.tasks) != (before.fds, before.tasks)
        assert not is_same(before, look)
    assert is_same(before, server.settled())
