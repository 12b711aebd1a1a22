"""Fixtures that several folders of tests share, and the choice of the tests that run."""

from pathlib import Path

import pytest

import pensieve.engine  # noqa: F401  # before anything that imports mlx, or MLX keeps its slow BLAS

from . import budget
from .models import write_model


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests to `make test-all`; `-m` chooses for itself."""
    if budget.EVERYTHING or config.option.markexpr:
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    deselected = terminalreporter.stats.get("deselected", [])
    num_slow = sum(item.get_closest_marker("slow") is not None for item in deselected)
    if not budget.EVERYTHING:
        words = f"a sample: {num_slow} slow tests were left out, random tests tried fewer cases"
        terminalreporter.write_line(f"{words}; `make test-all` runs everything")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight llama folder; do not write into it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")
