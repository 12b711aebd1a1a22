"""`pensieve sessions`: its table, and what it says where the server refuses or is not there."""

import json
import socket
from typing import Any

import pytest

from pensieve.api.command.cli import main
from pensieve.api.command.session_rows import MAX_DEPTH, table_lines
from pensieve.api.command.session_screen import _draw

from ..reports.conftest import Scheduled, scheduled
from ..reports.test_causes import FIRST, SECOND

__all__ = ["scheduled"]  # a fixture


def row(name: str = "5f2c1a3e-9d70", **fields: Any) -> dict[str, Any]:
    session: dict[str, Any] = {
        "id": name,
        "key": "",
        "folder": "pensieve",
        "state": "decode",
        "position": None,
        "computed": None,
        "prompt": None,
        "context_tokens": 24230,
        "cached_share": 0.97,
        "tokens_per_s": 41.24,
        "waited_s": 3.2,
        "device_share": 0.31,
        "age_s": 1830.0,
        "agents": [],
    }
    return session | fields


def agent(name: str, parent: str = "", state: str = "tools", **fields: Any) -> dict[str, Any]:
    plain = {"id": name, "parent": parent, "type": "Explore", "state": state, "tools": ["Bash"]}
    return row() | plain | fields


def test_a_session_has_a_line_and_so_has_each_agent_that_does_something() -> None:
    agents = [
        agent("", state="decode"),
        agent("c3", "b2"),
        agent("b2", state="idle"),
        agent("a1"),
        agent("d4", "a1"),
    ]
    found = table_lines([row(agents=agents)])
    assert [" ".join(line.split()) for line in found] == [
        "SESSION FOLDER STATE CONTEXT CACHED TOK/S WAITED DEVICE AGE",
        "5f2c1a3e pensieve decode 24,230 97% 41.2 3.2 s 31% 30 min",
        "└ Explore a1 tools: Bash 24,230 41.2",
        "└ Explore d4 tools: Bash 24,230 41.2",
        "└ Explore c3 tools: Bash 24,230 41.2",
    ]
    assert found[3].startswith("  └")


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"state": "queued", "position": 3}, "queued, 3 before it"),
        ({"state": "prefill", "computed": 8192, "prompt": 24230}, "prefill 8,192 of 24,230"),
        ({"state": "idle", "cached_share": None, "folder": None}, "-"),
        ({"key": "alice"}, "alice"),
        ({"folder": "a\x1b[2Jb"}, "a?[2Jb"),
    ],
)
def test_what_a_session_does_is_said_in_words(fields: dict[str, Any], shown: str) -> None:
    assert shown in table_lines([row(**fields)])[1]


def test_agents_that_claim_to_have_started_one_another_are_shown_once() -> None:
    agents = [agent("a", "b"), agent("b", "a"), *(agent(f"n{i}", f"n{i - 1}") for i in range(2 * MAX_DEPTH))]
    assert len(table_lines([row(agents=agents)])) == 2 + len(agents)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run `pensieve sessions`; return its exit code, and what it prints."""
    code = main(["sessions", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_sessions_are_listed_and_dropped(scheduled: Scheduled, capsys: pytest.CaptureFixture[str]) -> None:
    port = "--port", str(scheduled.port)
    assert run(capsys, *port) == (0, "no session has sent a request\n")
    for messages in (FIRST, SECOND):
        scheduled.ask("5f2c1a3e-9d70", messages=messages)
    code, text = run(capsys, *port)
    assert (code, text.splitlines()[1].split()[:3]) == (0, ["5f2c1a3e", "-", "idle"])
    code, text = run(capsys, *port, "--json")
    assert json.loads(text)["sessions"][0]["id"] == "5f2c1a3e-9d70"
    code, text = run(capsys, "drop", "5f2c", *port)
    assert text.startswith("session 5f2c1a3e-9d70: ")
    assert int(text.split()[2].replace(",", "")) > 0
    assert run(capsys, *port) == (0, "no session has sent a request\n")
    assert scheduled.verdict("5f2c1a3e-9d70", messages=SECOND)[0] == "evicted"
    assert scheduled.loop.stats().blocks_held == 0


def test_what_goes_wrong_is_said_in_a_line(scheduled: Scheduled, capsys: pytest.CaptureFixture[str]) -> None:
    port = "--port", str(scheduled.port)
    for name in ("5f2c", "5f2d"):
        scheduled.ask(name, messages=FIRST)
    assert run(capsys, "drop", "nobody", *port)[1].endswith("'nobody'\n")
    assert "2 sessions have the name" in run(capsys, "drop", "5f", *port)[1]
    assert "name the session by its ID" in run(capsys, "drop", *port)[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, text = run(capsys, "--port", str(free.getsockname()[1]))
    assert code == 1
    assert text.startswith("pensieve: no server answers at http://127.0.0.1:")


def test_a_watched_table_is_drawn_in_its_own_place(capsys: pytest.CaptureFixture[str]) -> None:
    _draw(["x" * 1000] * 1000, on_terminal=True)
    text = capsys.readouterr().out
    assert text.startswith("\x1b[H\x1b[J")
    assert len(text.splitlines()) < 1000
    assert max(map(len, text.splitlines())) < 1000
