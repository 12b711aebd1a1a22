"""A small fleet whose KV does not fit: knowing its sessions finds more than LRU; figures never differ."""

from pathlib import Path

import pytest

from pensieve.bench.micro.agent_scripts import draw_sessions, read_sessions, write_sessions
from pensieve.bench.micro.retention import main
from pensieve.bench.micro.simulated_sessions import SCALE

TRACE = Path(__file__).parents[3] / "bench" / "micro" / "agent_sessions.jsonl"


def test_a_file_of_sessions_is_what_was_drawn(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    write_sessions(path, read_sessions(TRACE))
    assert path.read_text(encoding="utf-8") == TRACE.read_text(encoding="utf-8")
    write_sessions(path, draw_sessions(0, 12, SCALE))
    assert read_sessions(path) == read_sessions(TRACE)


def test_more_is_found_by_what_sessions_do_than_by_lru(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seeds", "5", "--sessions", "3", "--told", "hints", "--memory", "0.5"])
    words = capsys.readouterr().out.splitlines()[-1].split()
    lru, retention = float(words[2]), float(words[5])
    assert retention > lru
