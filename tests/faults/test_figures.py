"""The suite's table is written as the tests measure it."""

import socket
from pathlib import Path

import pytest

from .figures import DOCUMENT, END, START, Figures, Row, read_rows, write_rows
from .watched_server import GOLDEN, WatchedServer, is_same


def test_rows_are_sorted_and_those_of_numbers_that_did_not_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{START}{END}\nafter\n")
    write_rows(path, [Row(9, "a | b", "1", "2", False), Row(2, "old", "1", "1", True)])
    write_rows(path, [Row(2, "new", "≤ 3", "2\n3", True)])
    assert read_rows(path.read_text()) == [
        Row(2, "new", "≤ 3", "2 3", True),
        Row(9, "a | b", "1", "2", False),
    ]
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("after\n")


def test_the_documents_table_can_be_read() -> None:
    numbers = [row.number for row in read_rows(DOCUMENT.read_text(encoding="utf-8"))]
    assert numbers == sorted(numbers)


def test_a_figure_that_is_not_reached_fails_and_is_noted(request: pytest.FixtureRequest) -> None:
    figures = Figures(request.node)
    with pytest.raises(AssertionError):
        figures.check(Row(1, "this", "0", "1", False))
    assert len(request.node.user_properties) == 1
    request.node.user_properties.clear()


def test_a_server_that_holds_what_it_did_not_before_is_found(server: WatchedServer) -> None:
    """The probes' own negative control: a connection that stays open is a file descriptor and a task."""
    assert server.canary() == GOLDEN
    held = socket.create_connection(("127.0.0.1", server.port))
    held.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    held.recv(2**16)
    look = server.look()
    held.close()
    for _ in range(100):
        if not is_same(look, server.look()):
            return
    raise AssertionError("a connection was not seen")
