"""What a served fleet gets on one device: prompts that are really computed, with HTTP and without.

    python -m pensieve.bench.micro.gpu_served                     # all cases, a Qwen3-4B shape, on a GPU
    python -m pensieve.bench.micro.gpu_served --shape qwen3.5-4b --case http
    python -m pensieve.bench.micro.gpu_served --case http --repeat 3 --json http.json
    python -m pensieve.bench.micro.gpu_served --tiny              # a toy model, on a CPU

Cases: `prefill`, `decode`, `fleet` and `long` step the server's own runner by hand (served_bare.py); `http`
and `http-long` start `pensieve serve` and ask it (served_http.py). Each run of a case is a new process with
the defaults of every flag, unless `--flags` gives some, as in `--flags "--kv-bits 8"`. All prompts are
random and new in each run and in each part of it. Nothing is computed beforehand but what the server's own
start computes. Only the kernels that MLX has compiled outlast a process: MLX keeps them as files, here in a
folder of this command, which is empty at first; with `--keep-kernels` in the user's own folder.

The model has the shape's sizes, random weights, and a tokenizer of as many tokens as the shape has. It is
written to /dev/shm where there is room, and removed at the end unless `--folder` names its folder.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import abc
from dataclasses import asdict, replace
from pathlib import Path

from ..process_guard import ProcessGuard
from ..report import conditions, write_json
from .case_report import CaseReport, left_on_sigterm, medians, read_report
from .served_sizes import ServedSizes, tiny
from .shapes import SHAPES

BARE = ("prefill", "decode", "fleet", "long")
HTTP = ("http", "http-long")
MEMORY_DISK = Path("/dev/shm")
MODEL_BYTES = 12e9
"""Room that a model's folder is given."""

END_S = 30
"""Seconds that a run has to end after SIGTERM; its server has fewer."""


class ServedRuns:
    """Runs cases, each in a new process, and keeps their reports."""

    def __init__(self, sizes: ServedSizes, work: Path, folder: Path, seconds: float) -> None:
        """work: a folder for files between processes. seconds: most that a run may take."""
        self.reports: list[CaseReport] = []
        self._work = work
        self._folder = folder
        self._seconds = seconds
        self._sizes_file = work / "sizes.json"
        self._environment = dict(os.environ)
        write_json(self._sizes_file, asdict(sizes))

    def keep_kernels_apart(self) -> None:
        """Have compiled kernels kept in an empty folder."""
        folder = self._work / "temporary"
        folder.mkdir()
        self._environment |= {"TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder)}

    def write_model(self, shape: str) -> bool:
        """Write the model unless its folder has one; return whether there is one."""
        return (self._folder / "model.safetensors").exists() or self._call("shapes", shape, str(self._folder))

    def run(self, case: str) -> bool:
        """Run a case once; return whether it ended well. What it found until then is kept either way."""
        report = self._work / f"report-{len(self.reports)}.json"
        module = "served_http" if case in HTTP else "served_bare"
        started_s = time.perf_counter()
        ended_well = self._call(module, case, str(self._folder), str(self._sizes_file), str(report))
        print(f"({case} took {time.perf_counter() - started_s:.0f} s)\n", flush=True)
        if report.exists():
            self.reports.append(read_report(report))
        return ended_well

    def _call(self, module: str, *arguments: str) -> bool:
        """Run a module of this folder; return whether it ended well and in time."""
        command = [sys.executable, "-m", f"{__package__}.{module}", *arguments]
        process = subprocess.Popen(command, env=self._environment, start_new_session=True)
        guard = ProcessGuard(process.pid, END_S)
        try:
            return process.wait(self._seconds) == 0
        except subprocess.TimeoutExpired:
            print(f"{module}: stopped after {self._seconds:g} s", flush=True)
            return False
        finally:
            end(process)
            guard.dismiss()


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, which then writes its report and ends its server."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def roomy_folder() -> Path | None:
    """Return the folder for files in memory, or None where it is too small."""
    has_room = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > MODEL_BYTES
    return MEMORY_DISK if has_room else None


def parse(arguments: abc.Sequence[str] | None) -> argparse.Namespace:
    """Read the command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=(*BARE, *HTTP), help="may be repeated (default: all)"
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs of each case, each a new process")
    parser.add_argument("--shape", choices=SHAPES, help="the model's sizes (default: Qwen3-4B's)")
    parser.add_argument("--tiny", action="store_true", help="a toy model and a hundredth of all lengths")
    parser.add_argument("--folder", type=Path, help="the model's folder; it is kept for later runs")
    parser.add_argument("--keep-kernels", action="store_true", help="use kernels that MLX has kept before")
    parser.add_argument("--seconds", type=float, default=200, help="a run that takes longer is stopped")
    parser.add_argument("--json", type=Path, help="file for all figures and their conditions")
    parser.add_argument("--flags", default="", help="of `pensieve serve`, in one string (default: none)")
    return parser.parse_args(arguments)


def main(arguments: abc.Sequence[str] | None = None) -> int:
    """Run the cases, print reports and medians; return how many runs failed, or 1 without a model."""
    options = parse(arguments)
    sizes = tiny() if options.tiny else ServedSizes()
    sizes = replace(sizes, shape=options.shape or sizes.shape, flags=tuple(shlex.split(options.flags)))
    kernels = "as the user's processes have left them" if options.keep_kernels else "none at first"
    warmed_up = f"nothing but by each start of runner or server; files of MLX's compiled kernels: {kernels}"
    started, failed = conditions() | {"warmed up": warmed_up, "flags": options.flags or "defaults"}, 0
    with left_on_sigterm(), tempfile.TemporaryDirectory(dir=roomy_folder()) as name:
        work = Path(name)
        runs = ServedRuns(sizes, work, options.folder or work / "model", options.seconds)
        if not options.keep_kernels:
            runs.keep_kernels_apart()
        if not runs.write_model(sizes.shape):
            return 1
        for number in range(1, options.repeat + 1):
            for case in options.case or (*BARE, *HTTP):
                print(f"== {case}, run {number} of {options.repeat}, a new process", flush=True)
                failed += not runs.run(case)
                if options.json is not None:  # after each run: the command may be cut off
                    found = [asdict(report) for report in runs.reports]
                    write_json(options.json, {"conditions": started, "sizes": asdict(sizes), "runs": found})
            print(medians(runs.reports) + "\n", flush=True)
        print(json.dumps(started, indent=1))
    return failed


if __name__ == "__main__":
    sys.exit(main())
