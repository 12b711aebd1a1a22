"""Tests elsewhere that hold up numbers of the list: they exist, and `make faults` runs them for the table."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .. import budget
from .covered import COVERED, Covered
from .covered_storage import COVERED_STORAGE
from .figures import Figures

ALLOWED_S = 1800
"""Seconds for the tests of one case."""

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "case", [*COVERED, *COVERED_STORAGE], ids=lambda case: f"{case.number}-{case.tried[:30]}"
)
def test_what_the_table_names_is_there(case: Covered, figures: Figures) -> None:
    figure = figures.begin(case.number, case.tried, case.asked) if budget.LONG else None
    for name in case.tests:
        file, _, test = name.partition("::")
        functions = names_of_tests((TESTS / file).read_text(encoding="utf-8"))
        assert functions, file
        assert not test or test in functions, name
    if figure is not None:
        passed = run_tests(case)
        named = ", ".join(dict.fromkeys(f"tests/{name.partition('::')[0]}" for name in case.tests))
        figure.note(f"{passed} ({named})", " passed" in passed and " skipped" not in passed)
        assert " failed" not in passed, passed


def names_of_tests(text: str) -> set[str]:
    """Return the names of a module's tests."""
    functions = (
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {name for name in functions if name.startswith("test_")}


def run_tests(case: Covered) -> str:
    """Run the tests; return how many passed, failed and were skipped."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(str(TESTS / name) for name in case.tests)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        timeout=ALLOWED_S,
    )
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout.splitlines()[-1])
    assert counts, done.stdout + done.stderr
    return ", ".join(f"{count} {word}" for count, word in counts).replace("error", "failed")
