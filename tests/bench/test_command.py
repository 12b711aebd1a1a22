"""`pensieve bench` as its users run it."""

import json
from pathlib import Path

import pytest

from pensieve.api.command.cli import main
from pensieve.api.command.command_line import make_parser
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


def test_a_trace_is_replayed_and_goes_with_no_flag_of_the_drawn_fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    row = {"input_length": 30, "output_length": 5}
    trace.write_text("\n".join(json.dumps(row | {"session_id": name}) for name in ("a", "b", "a")))
    scheduler = ScriptedScheduler()
    scheduler.play(Script(chunks=[b"hello"], finish="length"))
    with running(Server(scheduler=scheduler)) as server:
        assert main(["bench", "--url", server.url, "--trace", str(trace)]) == 0
    assert "3 requests in" in capsys.readouterr().out
    assert main(["bench", "--trace", str(trace), "--sessions", "3"]) == 1
    assert "--trace has sessions of its own" in capsys.readouterr().err


def test_a_crowd_is_measured_against_the_same_fleet_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = ScriptedScheduler()
    scheduler.play(Script(chunks=[b"hello", b" world"], finish="length"))
    with running(Server(scheduler=scheduler)) as server:
        assert main(["bench", "--url", server.url, *SMALL, "--crowd", "3", "--subagent-turns", "1"]) == 0
    shown = capsys.readouterr().out
    assert "7 requests in" in shown
    assert "3 subagents of session 1: the others' turns take" in shown
