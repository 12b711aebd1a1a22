"""Rules of the house that the linter does not know: sizes, one name for one thing, few floors."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from .test_layers import LAYERS, ROOT, SOURCES, imports, relative

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 300
MAX_FLOORS = {"cache": 4, "engine": 8, "scheduler": 10, "api": 8}

TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))

SHARED_NAMES = {"__init__.py", "config.py"}
"""File names that more than one folder may have."""


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *SCRIPTS], ids=relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


def test_no_two_files_of_the_product_share_a_name() -> None:
    names = Counter(path.name for path in SOURCES if path.name not in SHARED_NAMES)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=relative)
def test_a_sequence_is_the_schedulers(path: Path) -> None:
    """The abstract base class of the same name is written `abc.Sequence`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("collections.abc", "typing"):
            assert "Sequence" not in {alias.name for alias in node.names}


def rooms(layer: str) -> dict[str, set[str]]:
    """Each folder and each single file of a layer, with those of the same layer that it imports."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / layer).rglob("*.py"):
        room = path.relative_to(ROOT / layer).parts[0].removesuffix(".py")
        if room != "__init__":
            parts = [name.split(".") for name in imports(path)]
            names = {part[1] for part in parts if part[0] == layer and len(part) > 1}
            found.setdefault(room, set()).update(names - {room})
    return {room: names & found.keys() for room, names in found.items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_between_rooms_of_a_layer_point_one_way(layer: str) -> None:
    """A folder counts as one room: its files may not import one another through other rooms."""
    below = rooms(layer)
    floors: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, " -> ".join([*above, room])
        if room not in floors:
            floors[room] = 1 + max((floor(other, (*above, room)) for other in below[room]), default=0)
        return floors[room]

    assert max(map(floor, below)) <= MAX_FLOORS[layer], sorted(floors, key=lambda room: -floors[room])
