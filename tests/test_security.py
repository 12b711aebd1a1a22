"""What SECURITY.md promises: no code of others is run, and each threat of its table has its tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_layers import ROOT, SOURCES, relative

SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
"""Modules whose data can run code."""

ALLOWED = {
    "engine/channel.py": "imports pickle",
    "engine/worker.py": "imports pickle",
    "bench/micro/loop_stalls.py": "imports pickle",
    "bench/sharing.py": "passes shell",
}
"""The socket pair between the server and the process that it starts itself; an exception, there and back; a
bench that only writes pickles, and one that runs a constant."""

LOADERS = {
    ("np", "load"),
    ("numpy", "load"),
    ("torch", "load"),
    ("yaml", "load"),
    ("os", "system"),
    ("os", "popen"),
}
"""Calls that may run what they are given; MLX's own load is told by its module."""


def findings(tree: ast.AST) -> Iterator[str]:
    """Yield what in a file could run data as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            yield from (f"imports {name}" for name in names if name.split(".")[0] in UNPICKLING)
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("eval", "exec", "compile", "__import__"):
            yield f"calls {function.id}"
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if (function.value.id, function.attr) in LOADERS:
                yield f"calls {function.value.id}.{function.attr}"
            if function.attr in ("create_subprocess_shell", "getoutput"):
                yield f"calls {function.attr}"
        for keyword in node.keywords:
            is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            is_shell = keyword.arg == "shell" and ast.unparse(function).startswith("subprocess.")
            if (is_shell or keyword.arg in ("allow_pickle", "trust_remote_code")) and not is_off:
                yield f"passes {keyword.arg}"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=relative)
def test_no_file_runs_data_as_code(path: Path) -> None:
    found = set(findings(ast.parse(path.read_text(encoding="utf-8"))))
    assert found <= {ALLOWED.get(relative(path))}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "exec(text)",
        "np.load(path)",
        "torch.load(path)",
        "yaml.load(text)",
        "os.system(words)",
        "subprocess.run(words, shell=True)",
        "read(path, allow_pickle=True)",
        "load(path, trust_remote_code=is_trusted)",
    ],
)
def test_the_gate_sees_each_of_them(code: str) -> None:
    assert list(findings(ast.parse(code)))


def test_each_threat_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*`tests/.*\|$", text, flags=re.MULTILINE)
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            functions = re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
            assert test in functions, f"{file}::{test}"
