"""The documents say what the code does."""

import re
import runpy
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from pensieve import __version__
from pensieve.engine.loading.memory_plan import gigabytes

from .families.known_models import HALF, KNOWN_MODELS
from .families.refusals import REFUSALS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def docs() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "docs.py"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_documents_have_the_tables_that_the_code_makes(docs: dict[str, Any]) -> None:
    """After a change of a flag or of the memory plan: `.venv/bin/python scripts/docs.py`."""
    for path, names in docs["DOCUMENTS"].items():
        text = path.read_text(encoding="utf-8")
        assert docs["render"](text, names) == text, path


def test_phi_3_mini_needs_393216_bytes_a_token(docs: dict[str, Any]) -> None:
    """32 layers of 32 heads of 96, keys and values, 2 bytes each: worked out by hand."""
    phi_3 = docs["describe"](docs["MODELS"][0])
    assert phi_3.kv_bytes_per_token == 32 * 32 * 96 * 2 * 2 == 393_216
    assert phi_3.weight_bytes == pytest.approx(3.82e9 * 4.5 / 8, rel=0.01)


def test_the_readmes_sizes_are_those_of_the_table_of_models() -> None:
    """The README's are told by mlx-lm's models, docs/models.md's are worked out from published shapes."""
    rows = {row[0]: row for line in read("README.md").splitlines() if len(row := line.split(" | ")) == 8}
    for known in KNOWN_MODELS:
        told = rows.get(f"| {known.name}")
        if told is not None:
            assert told[2] == f"{HALF * known.kv_numbers:,} B", known.name
            assert told[3] == (gigabytes(known.state.num_bytes) if known.state else ""), known.name
    assert len(rows.keys() & {f"| {known.name}" for known in KNOWN_MODELS}) >= 7


@pytest.mark.parametrize(
    ("name", "limit"), [("README.md", 150), ("CONTRIBUTING.md", 70), ("ARCHITECTURE.md", 100)]
)
def test_documents_stay_short(name: str, limit: int) -> None:
    assert len(read(name).splitlines()) <= limit


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[0] == __version__


def test_the_models_that_can_be_divided_are_named() -> None:
    files = Path(mlx_lm.__file__).parent.glob("models/*.py")
    divided = {file.stem for file in files if "def shard(" in file.read_text(encoding="utf-8")}
    [named] = re.findall(r"that it can divide: ([^.]*)\.", read("docs/ranks.md"))
    assert set(named.replace("\n", " ").split(", ")) == divided - REFUSALS.keys()


def test_linked_documents_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", read(name))
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))
    named = {
        target
        for name in ("README.md", "CONTRIBUTING.md")
        for target in re.findall(r"^make ([a-z-]+)", read(name), flags=re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_the_architectures_table_names_every_file_once() -> None:
    rows = re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", read("ARCHITECTURE.md"), flags=re.MULTILINE)
    named = [f"{folder}/{name}" for folder, text in rows for name in re.findall(r"`(\w+\.(?:py|h))`", text)]
    layers = [
        path for layer in ("cache", "engine", "scheduler", "api") for path in (ROOT / layer).rglob("*.*")
    ]
    files = {path.relative_to(ROOT).as_posix() for path in layers if path.suffix in (".py", ".h")}
    assert sorted(named) == sorted(file for file in files if not file.endswith("__init__.py"))


def test_files_that_documents_speak_of_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/decisions.md", "bench/README.md"):
        paths = re.findall(r"`((?:api|engine|scheduler|cache|bench|tests|scripts|docs)/[\w/.]+)`", read(name))
        assert [path for path in paths if not (ROOT / path).exists()] == [], name
