"""The served cases, at sizes that a CPU plays at once."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pensieve.bench.micro import gpu_served, served_bare, served_http
from pensieve.bench.micro.case_report import STOPPED, CaseReport, medians, read_report, reported
from pensieve.bench.micro.served_http import PieceTimes
from pensieve.bench.micro.served_sizes import ServedSizes, sizes_from, tiny
from pensieve.bench.micro.shapes import SHAPES, write_random_model
from pensieve.bench.wire import RequestFailed

from ...budget import sampled
from ...processes import wait_for_end

RATES = {"first prompt: tokens/s", "later prompts: tokens/s"}
FLEET_NAMES = ("wall s", "turn p95 s", "ITL p99 s")
FLEET = {f"{run} run: {name}" for run in ("first", "second") for name in FLEET_NAMES}
LONG = {"alone, first: TTFT s", "beside, first: TTFT / last alone", "beside, second: ITL p99 s"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model's folder, sizes, and where a report is to be."""
    folder = tmp_path_factory.mktemp("served")
    sizes = replace(tiny(), flags=("--max-batch", "7"))
    (folder / "sizes.json").write_text(json.dumps(asdict(sizes)))
    model = write_random_model(folder / "model", "tiny")
    return [str(model), str(folder / "sizes.json"), str(folder / "report.json")]


@pytest.mark.parametrize(
    ("case", "figures"),
    [
        ("prefill", RATES),
        ("decode", {f"{case.name}: ms" for case in tiny().decode}),
        ("fleet", FLEET),
        ("long", LONG),
    ],
)
def test_a_case_without_http_reports_its_figures(case: str, figures: set[str], files: list[str]) -> None:
    served_bare.main([case, *files])
    report = read_report(Path(files[-1]))
    assert figures | {"build s"} <= set(report.figures)
    assert all(report.figures[name] > 0 for name in figures)
    text = "\n".join(report.text)
    assert "shapes not met before in this process: " in text
    assert "max_batch=7" in text


@pytest.mark.parametrize(
    ("case", "figures"),
    sampled([("http", FLEET | {"wall, second run / first run"}), ("http-long", LONG)], []),
)
def test_a_case_with_http_reports_its_figures(case: str, figures: set[str], files: list[str]) -> None:
    served_http.main([case, *files])
    report = read_report(Path(files[-1]))
    assert figures | {"start to ready s"} <= set(report.figures)
    assert report.figures.get("first run: errors", 0) == 0
    assert "--max-batch 7" in "\n".join(report.text)


def test_all_cases_have_a_module_that_plays_them() -> None:
    assert (set(gpu_served.BARE), set(gpu_served.HTTP)) == (set(served_bare.CASES), set(served_http.CASES))


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_random_model(tmp_path / "model", "tiny")
    found = ["--tiny", "--case", "prefill", "--folder", str(model), "--seconds", "0.01"]
    file = tmp_path / "found.json"
    assert gpu_served.main([*found, "--json", str(file)]) == 1
    assert "served_bare: stopped after 0.01 s" in capfd.readouterr().out
    assert set(json.loads(file.read_text())) == {"conditions", "sizes", "runs"}


COMMAND = """
import sys
from pathlib import Path
from pensieve.bench.micro import gpu_served
gpu_served.MEMORY_DISK, gpu_served.MODEL_BYTES = Path(sys.argv[1]), 0
sys.executable = sys.argv[2]
gpu_served.main(["--tiny"])
"""


def test_the_command_leaves_neither_processes_nor_files_when_it_is_stopped(tmp_path: Path) -> None:
    """Under `timeout` it left a server that held the GPU, and a model of gigabytes in memory."""
    files, started, case = tmp_path / "files", tmp_path / "started", tmp_path / "case"
    files.mkdir()
    # A command that is stopped while it starts the case does not know of it yet.
    case.write_text(f"#!/bin/sh\nsleep 0.3\necho $$ > {started}\nexec sleep 100\n")
    case.chmod(0o700)
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(files), str(case)]) as command:
        while not started.exists() or not started.read_text().endswith("\n"):
            assert command.poll() is None
            time.sleep(0.01)
        command.terminate()
    assert command.returncode == STOPPED
    assert list(files.iterdir()) == []
    wait_for_end(int(started.read_text()))


def test_a_run_that_is_stopped_writes_what_it_has_found(tmp_path: Path) -> None:
    def stopped() -> None:
        with reported("x", tmp_path / "report.json") as report:
            report.figures["a s"] = 1.0
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        stopped()
    assert read_report(tmp_path / "report.json").figures == {"a s": 1.0}


def test_sizes_survive_json() -> None:
    for sizes in (ServedSizes(), tiny()):
        assert sizes_from(json.loads(json.dumps(asdict(sizes)))) == sizes


def test_the_full_prompts_are_those_that_the_figures_are_of() -> None:
    assert SHAPES[ServedSizes().shape]["hidden_size"] == 2560
    assert [case.name for case in ServedSizes().decode] == [
        "16 x (24000 shared + 2000)",
        "16 x (16000 shared + 4000)",
        "1 x 64000 + 7 x 4000",
        "8 x 4000",
        "1 x 20000",
        "16 x 20000",
    ]


def test_runs_of_a_case_are_summed_up_by_their_medians() -> None:
    reports = [CaseReport("a", {"x s": value}) for value in (1.0, 4.0, 2.0)]
    assert medians(reports).splitlines()[1].split() == ["a", "|", "x", "s", "2.00", "1.00", "to", "4.00", "3"]


def test_an_answer_that_ends_early_is_not_waited_for() -> None:
    async def wait() -> None:
        pieces = PieceTimes()
        pieces.add()
        asyncio.get_running_loop().call_soon(pieces.close)
        await pieces.wait_for(1)

    with pytest.raises(RequestFailed):
        asyncio.run(wait())


def test_only_gaps_within_a_time_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gaps() -> list[float]:
        pieces, clock = PieceTimes(), iter([0.0, 1.0, 3.0, 6.0, 10.0])
        monkeypatch.setattr("pensieve.bench.micro.served_http.time.perf_counter", lambda: next(clock))
        for _ in range(5):
            pieces.add()
        return pieces.gaps(2.0, 5.0)

    assert asyncio.run(gaps()) == [2.0, 3.0]
