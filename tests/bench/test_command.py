"""`pensieve bench` as its users run it."""

import json
from pathlib import Path

import pytest

from pensieve.api.command.cli import main, make_parser
from pensieve.api.command.flags import read_config
from pensieve.bench.config import BenchConfig, TraceConfig

from ..api.conftest import Server, running
from ..fakes import Script, ScriptedScheduler

SMALL = ("--sessions", "2", "--turns", "2", "--system-chars", "500", "--turn-chars", "50")


def test_flags_are_the_fields_of_the_configs() -> None:
    namespace = make_parser().parse_args(["bench"])
    assert read_config(TraceConfig, namespace) == TraceConfig()
    assert read_config(BenchConfig, namespace) == BenchConfig()
    namespace = make_parser().parse_args(["bench", "--tool-gap-s", "1.5", "--protocol", "openai"])
    assert read_config(TraceConfig, namespace).tool_gap_s == 1.5
    assert read_config(BenchConfig, namespace).protocol == "openai"


def test_a_fleet_meets_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = ScriptedScheduler()
    scheduler.play(Script(chunks=[b"hello", b" world"], finish="length", num_cached=20))
    report, drawing = tmp_path / "report.json", tmp_path / "plot.svg"
    with running(Server(scheduler=scheduler)) as server:
        files = ("--json", str(report), "--plot", str(drawing))
        assert main(["bench", "--url", server.url, "--api-key", "secret-key", *SMALL, *files]) == 0
    assert "4 requests in" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written["summary"]["done"] == 4
    assert written["requests"][0]["usage"]["cached"] == 20
    assert "secret-key" not in report.read_text()
    assert drawing.read_text().startswith("<svg")


def test_nobody_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert main(["bench", "--url", "http://127.0.0.1:9", "--json", str(report), *SMALL]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("pensieve: every request failed: no connection")
    assert (shown.err.count("\n"), "first token" in shown.out) == (1, False)
    assert json.loads(report.read_text())["summary"]["done"] == 0


def test_an_unknown_flag_points_at_the_commands_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--port", "7811"]) == 1
    expected = "pensieve: unrecognized arguments: --port 7811 (see pensieve bench --help)\n"
    assert capsys.readouterr().err == expected


def test_a_flag_without_sense_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--sessions", "0"]) == 1
    assert capsys.readouterr().err == "pensieve: --sessions must be at least 1\n"
