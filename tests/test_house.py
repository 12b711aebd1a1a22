"""Rules of the house that the linter does not know: sizes, and what a sequence is."""

import ast
from pathlib import Path

import pytest

from .test_layers import ROOT, SOURCES, relative

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 300

TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *SCRIPTS], ids=relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=relative)
def test_a_sequence_is_the_schedulers(path: Path) -> None:
    """The abstract base class of the same name is written `abc.Sequence`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("collections.abc", "typing"):
            assert "Sequence" not in {alias.name for alias in node.names}
