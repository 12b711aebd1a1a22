"""What SECURITY.md promises: no code of others is run, and each threat of its table has its tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_layers import ROOT, SOURCES, relative

FILES = [*sorted(ROOT.glob("*.py")), *SOURCES, *sorted((ROOT / "scripts").rglob("*.py"))]

UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
"""Modules whose data can run code."""

ALLOWED = {
    "engine/channel.py": {"pickle"},
    "engine/worker.py": {"pickle"},
    "bench/micro/loop_stalls.py": {"pickle"},
    "bench/sharing.py": {"shell="},
    "bench/claude.py": {"bash -c"},
    "bench/tool_turns.py": {"bash -c"},
    "bench/process_guard.py": {"/bin/sh -c"},
}
"""The socket pair between the server and the process that it starts itself; an exception, there and back;
benches: one only writes pickles, four run constants or commands of the bench itself."""

RUN_THEIR_INPUT = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "runpy.run_path", "runpy.run_module"),
    *("importlib.util.spec_from_file_location", "numpy.load", "torch.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
}
"""Functions by their full names, whatever a file calls them."""

METHODS = {"subprocess_shell", "exec_module", "create_subprocess_shell"}
"""The same of objects, whose classes are not known here."""

SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish"}


def findings(tree: ast.AST) -> Iterator[str]:
    """Yield what in a file could run data as code."""
    full_names = dict(imports(tree))
    yield from (name for name in full_names.values() if name.split(".")[0] in UNPICKLING)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node, full_names).removeprefix("builtins.")
            if name in RUN_THEIR_INPUT or (isinstance(node, ast.Attribute) and node.attr in METHODS):
                yield name
        elif isinstance(node, ast.Call):
            yield from flags(node)
            yield from shells(node.args)
        elif isinstance(node, ast.List | ast.Tuple):
            yield from shells(node.elts)


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that a file gives to what it imports, with their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or full, full
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module or ''}.{alias.name}"


def full_name(node: ast.expr, full_names: dict[str, str]) -> str:
    """Return the full name of what an expression names; a text that no function has, if it names nothing."""
    if isinstance(node, ast.Name):
        return full_names.get(node.id, node.id)
    return f"{full_name(node.value, full_names)}.{node.attr}" if isinstance(node, ast.Attribute) else "()"


def flags(call: ast.Call) -> Iterator[str]:
    """Yield the flags of a call that may have it run what it is given."""
    for keyword in call.keywords:
        is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and not is_off:
            yield f"{keyword.arg}="


def shells(words: list[ast.expr]) -> Iterator[str]:
    """Yield the first two words of a command if they are a shell that is given its commands."""
    first = [str(one.value) if isinstance(one, ast.Constant) else "" for one in words[:2]]
    if len(first) == 2 and first[0].rpartition("/")[2] in SHELLS and first[1].endswith("c"):
        yield f"{first[0]} {first[1]}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_runs_data_as_code(path: Path) -> None:
    found = set(findings(ast.parse(path.read_text(encoding="utf-8"))))
    assert found == ALLOWED.get(relative(path), set())


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import pickle as p",
        "eval(text)",
        "exec(text)",
        "list(map(eval, texts))",
        "import builtins; builtins.exec(text)",
        "import numpy as np; np.load(path)",
        "from numpy import load; load(path)",
        "import torch; torch.load(path)",
        "import yaml; yaml.load(text)",
        "import yaml; yaml.unsafe_load(text)",
        "import os; os.system(words)",
        "from os import system; system(words)",
        "from os import popen as start; start(words)",
        "import subprocess; subprocess.run(words, shell=True)",
        "from subprocess import run; run(words, shell=True)",
        "import subprocess as sp; sp.run(words, shell=is_shell)",
        "import subprocess as sp; sp.getoutput(words)",
        "from subprocess import getstatusoutput; getstatusoutput(words)",
        "from subprocess import Popen; Popen(['sh', '-c', words])",
        "import subprocess; subprocess.run(('/bin/bash', '-lc', words))",
        "command = ['sh', '-c', *words]",
        "import asyncio; asyncio.create_subprocess_exec('sh', '-c', words)",
        "import asyncio; asyncio.create_subprocess_shell(words)",
        "loop.subprocess_shell(protocol, words)",
        "import runpy; runpy.run_path(path)",
        "from importlib import util; util.spec_from_file_location(name, path)",
        "read(path, allow_pickle=True)",
        "load(path, trust_remote_code=is_trusted)",
    ],
)
def test_the_gate_sees_each_of_them(code: str) -> None:
    assert list(findings(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import re; re.compile(text)",
        "import mlx.core as mx; mx.eval(array); mx.load(path)",
        "import yaml; yaml.safe_load(text)",
        "import subprocess; subprocess.run(['git', '-c', 'a=b'], shell=False)",
    ],
)
def test_the_gate_lets_others_pass(code: str) -> None:
    assert not list(findings(ast.parse(code)))


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
