"""Fixtures that several folders of tests share, the choice of the tests that run, and workers' folders."""

import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import pensieve.engine  # noqa: F401  # before anything that imports mlx, or MLX keeps its slow BLAS

from . import budget
from .models import write_model

# A machine with other work is no fault of an example's.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

NUM_SLOW = pytest.StashKey[int]()
"""How many slow tests were left out."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of `-n` a folder of its own for what MLX compiles on the CPU, kept for the next run.

    MLX looks for it in the folder for temporary files, and may load a file that another process is writing.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        tempfile.gettempdir()  # this process's own files stay where they would be
        folder = config.rootpath / ".pytest_cache" / f"mlx-{worker}"  # also where pytest itself keeps none
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(folder)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests to `make test-all`; `-m` chooses for itself."""
    if budget.EVERYTHING or config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.stash[NUM_SLOW] = len(slow)
    getattr(config, "workeroutput", {})["num_slow"] = len(slow)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number from a worker of `-n`; each has it for all workers."""
    node.config.stash[NUM_SLOW] = getattr(node, "workeroutput", {}).get("num_slow", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if not budget.EVERYTHING:
        num_slow = config.stash.get(NUM_SLOW, 0)
        words = f"a sample: {num_slow} slow tests were left out, random tests tried fewer cases"
        terminalreporter.write_line(f"{words}; `make test-all` runs everything")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight llama folder; do not write into it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")
