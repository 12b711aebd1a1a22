"""What a run leaves behind: text, JSON, a drawing, a progress bar."""

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pensieve.bench.config import BenchConfig, TraceConfig
from pensieve.bench.dialects import TokenUsage
from pensieve.bench.fleet import PlayedTrace
from pensieve.bench.plot import plot
from pensieve.bench.progress import ProgressBar
from pensieve.bench.report import conditions, describe, describe_settings, report, table, write_json
from pensieve.bench.summary import summarise

from .test_summary import record

RUN = PlayedTrace(
    [
        record(),
        record(turn=2, start_s=4.0, previous_prompt=100, usage=TokenUsage(200, 100, 3)),
        record(session=1, agent="subagent", outcome="error", error="<lost> & gone", delta_s=[]),
    ],
    wall_s=8.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_report_is_json_with_conditions_summary_and_every_request(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, report(RUN, {"trace": {"seed": 3}}))
    written = json.loads(path.read_text())
    assert set(written) == {"conditions", "settings", "device_ms", "summary", "requests"}
    assert written["settings"] == {"trace": {"seed": 3}}
    assert written["summary"]["ttft_by_turn_s"]["2"]["p50"] == 1.0
    assert [request["cache"] for request in written["requests"]] == ["cold", "hit", "cold"]
    assert written["requests"][0]["delta_s"] == [1.0, 1.5, 3.0]


def test_conditions_name_code_machine_and_versions() -> None:
    found = conditions()
    assert {"time", "command", "commit", "machine", "memory_gb", "load_average", "python"} < set(found)
    assert found["versions"]["pensieve"]
    assert "/" not in found["command"].split()[0]


def test_people_get_a_table() -> None:
    text = describe(summarise(RUN))
    assert "3 requests in 8.00 s: 2 done, 0 cancelled, 1 errors" in text
    assert ["turn", "2", "1", *["1.00"] * 5] in [line.split() for line in text.splitlines()]
    assert "1 x <lost> & gone" in text
    assert "longest time without a token 1.50 s (session 1), 1.0 times the median of 1.50 s" in text


def test_flags_that_differ_from_the_defaults_are_told_but_no_key() -> None:
    configs = TraceConfig(sessions=3, tool_gap_s=1.5), BenchConfig(api_key="secret")
    assert describe_settings(*configs).splitlines()[0] == "flags: --sessions 3 --tool-gap-s 1.5"
    assert describe_settings(TraceConfig()).splitlines()[0] == "flags: all at their defaults"


def test_columns_are_aligned() -> None:
    assert table(["a", "bb"], [["ccc", "1"], ["d", "100"]]) == "a     bb\nccc    1\nd    100"


def test_the_plot_is_well_formed_and_draws_every_request() -> None:
    root = ElementTree.fromstring(plot(RUN, "a <title> & more"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <title> & more" in texts
    assert "session 2 (agent), turn 1" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 5 + 2 * 3
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["<lost> & gone"]


def test_a_plot_of_nothing_is_well_formed() -> None:
    ElementTree.fromstring(plot(PlayedTrace([record(delta_s=[], end_s=0.0)], 0.0), "nothing"))


def test_progress_is_shown_to_a_terminal_only() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for output in (terminal, pipe):
        progress = ProgressBar("fleet", 3, output)
        for ended in RUN.records:
            progress(ended)
        progress.close()
    assert pipe.getvalue() == ""
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith(f"fleet [{'#' * 30}] 3/3 requests, 6 tokens, 1 errors")
    assert last.endswith("\n")
