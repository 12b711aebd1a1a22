"""The formula of deploy/homebrew is of this version, and Ruby reads it."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from pensieve import __version__

ROOT = Path(__file__).parents[1]
FORMULA = ROOT / "deploy" / "homebrew" / "pensieve.rb"


def test_version_python_and_licence_are_those_of_the_package() -> None:
    text = FORMULA.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f'/pensieve-{__version__}.tar.gz"' in text
    assert f'license "{project["license"]}"' in text
    assert project["description"].removeprefix("A local") in text
    found = re.findall(r"python@?3\.(\d+)", text)
    assert found
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds is not None
    assert all(int(bounds[1]) <= int(minor) < int(bounds[2]) for minor in found)


def test_dependencies_are_those_that_the_package_declares() -> None:
    """Resources would have to be kept equal to pyproject.toml by hand."""
    assert not re.search(r"^\s*resource\b", FORMULA.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("ruby") is None, reason="ruby is not installed")
def test_ruby_reads_the_formula() -> None:
    subprocess.run(["ruby", "-c", str(FORMULA)], check=True, capture_output=True)
