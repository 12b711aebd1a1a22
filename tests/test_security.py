"""What SECURITY.md promises: no code of others is run, and each threat of its table has its tests."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from .test_layers import ROOT, SOURCES, relative

FILES = [*sorted(ROOT.glob("*.py")), *SOURCES, *sorted((ROOT / "scripts").rglob("*.py"))]

UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
"""Modules whose data can run code."""

ALLOWED = {
    "engine/channel.py": {"pickle"},
    "engine/worker.py": {"pickle"},
    "bench/micro/loop_stalls.py": {"pickle"},
    "bench/sharing.py": {"shell=", "os.execvpe"},
    "bench/micro/shapes.py": {"importlib.import_module"},
    "bench/micro/parallel.py": {"importlib.import_module"},
    "bench/claude.py": {"bash -c"},
    "bench/tool_turns.py": {"bash -c"},
    "bench/process_guard.py": {"/bin/sh -c"},
}
"""The socket pair between the server and the process that it starts itself; an exception, there and back;
benches: one only writes pickles, four run constants or commands of the bench
itself, two load mlx-lm's models."""

RUN_THEIR_INPUT = (
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*", "subprocess.get*output"),
    *("asyncio.create_subprocess_shell", "runpy.*", "logging.config.*"),
    *("importlib.util.spec_from_file_location", "importlib.machinery.*Loader"),
    *("numpy.load", "numpy.*.load", "torch.load", "torch.*.load", "*.ForkingPickler"),
    *(
        "yaml.load*",
        "yaml.full_load*",
        "yaml.unsafe_load*",
        "yaml.Loader",
        "yaml.FullLoader",
        "yaml.UnsafeLoader",
    ),
    *("jinja2.Environment", "jinja2.Template", "jinja2.environment.*", "jinja2.nativetypes.*"),
)
"""Functions and classes by their full names, whatever a file calls them. jinja2: its sandbox alone."""

METHODS = {"subprocess_shell", "exec_module", "create_subprocess_shell"}
"""The same of objects, whose classes are not known here."""

IMPORT = "importlib.import_module"

FLAGS = {"shell", "allow_pickle", "trust_remote_code"}

MAX_POSITIONAL = 8
"""Positional arguments of subprocess's functions, behind which stands whether a shell is used."""

SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish"}


def findings(tree: ast.AST) -> Iterator[str]:
    """Yield what in a file could run data as code."""
    full_names = dict(imports(tree))
    yield from (
        name for name in full_names.values() if UNPICKLING & {*name.split(".")[:1], name.split(".")[-1]}
    )
    yield from ("import *" for name in full_names if name == "*")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node, full_names)
            if runs_its_input(name) or (isinstance(node, ast.Attribute) and node.attr in METHODS):
                yield name
        elif isinstance(node, ast.Call):
            yield from calls(node, full_names)
            yield from shells(node.args)
        elif isinstance(node, ast.Dict):
            yield from (f"{key}=" for key, value in options(node) if value is not False and key != "shell")
            yield from (f"{key}=" for key, value in options(node) if value is True and key == "shell")
        elif isinstance(node, ast.List | ast.Tuple):
            yield from shells(node.elts)


def runs_its_input(name: str) -> bool:
    """Whether a function or class of that full name may run what it is given."""
    return any(fnmatchcase(name.removeprefix("builtins."), pattern) for pattern in RUN_THEIR_INPUT)


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


def constant(node: ast.expr) -> Any:
    """Return the value that an expression has as it stands; None where it is computed."""
    return node.value if isinstance(node, ast.Constant) else None


def options(node: ast.Dict) -> Iterator[tuple[str, Any]]:
    """Yield the flags that a dict has, with their values."""
    for key, value in zip(node.keys, node.values, strict=True):
        if key is not None and constant(key) in FLAGS:
            yield constant(key), constant(value)


def calls(call: ast.Call, full_names: dict[str, str]) -> Iterator[str]:
    """Yield what a call may run by its flags, or by the name that it looks up."""
    name = full_name(call.func, full_names)
    for keyword in call.keywords:
        if keyword.arg == "executable" or (keyword.arg in FLAGS and constant(keyword.value) is not False):
            yield f"{keyword.arg}="
    if name.startswith("subprocess.") and len(call.args) > MAX_POSITIONAL:
        yield "shell="
    if name == IMPORT and str(constant(call.args[0]) or "pickle").split(".")[0] in UNPICKLING:
        yield IMPORT
    if name == "getattr" and runs_its_input(
        f"{full_name(call.args[0], full_names)}.{constant(call.args[1])}"
    ):
        yield name


def shells(words: list[ast.expr]) -> Iterator[str]:
    """Yield the words of a command that are a shell, perhaps after `env`, and its flag for commands."""
    texts = [str(constant(word)) for word in words]
    for number, shell in enumerate(texts[:2]):
        if shell.rpartition("/")[2] in SHELLS:
            flags = (text for text in texts[number + 1 :] if re.fullmatch("-[a-z]*c", text))
            yield from (f"{shell} {flag}" for flag in flags)


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
        "load(path, {'trust_remote_code': True})",
        "from os import *",
        "import os; os.execvp(words[0], words)",
        "import os; getattr(os, 'system')(words)",
        "import importlib; importlib.import_module(name)",
        "from importlib import import_module; import_module('pickle')",
        "from importlib.machinery import SourceFileLoader; SourceFileLoader(name, path)",
        "import _pickle",
        "from .channel import pickle",
        "from multiprocessing.reduction import ForkingPickler; ForkingPickler.loads(raw)",
        "import yaml; yaml.full_load_all(text)",
        "import yaml; yaml.Loader(text)",
        "import numpy as np; np.lib.npyio.load(path)",
        "import torch; torch.jit.load(path)",
        "import subprocess; subprocess.run(words, **{'shell': True})",
        "from subprocess import Popen; Popen(words, -1, None, None, None, None, None, True, True)",
        "import subprocess; subprocess.run(words, executable='/bin/sh')",
        "import subprocess; subprocess.run(['bash', '-e', '-c', words])",
        "import subprocess; subprocess.run(['env', 'sh', '-c', words])",
        "import logging.config; logging.config.fileConfig(path)",
        "import jinja2; jinja2.Environment().from_string(text)",
        "from jinja2 import Template; Template(text)",
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
        "from importlib import import_module; import_module('matplotlib.pyplot')",
        "from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox; Sandbox()",
        "load(path, {'trust_remote_code': False, 'shell': tool})",
        "import subprocess; subprocess.run(['git', '-c', 'a=b'], shell=False)",
    ],
)
def test_the_gate_lets_others_pass(code: str) -> None:
    assert not list(findings(ast.parse(code)))


def named_tests(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each row of the table of threats, with the files and names of its tests."""
    table = text.partition("| threat |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        yield row, re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)


def test_each_threat_names_tests_that_exist() -> None:
    rows = list(named_tests((ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert len(rows) >= 20
    for row, named in rows:
        assert named, row
        for file, test in named:
            functions = re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
            assert test in functions, f"{file}::{test}"


def test_a_threat_without_a_test_is_seen() -> None:
    rows = ("| threat | test |", "| --- | --- |", "| one | `tests/a.py::test_b` |", "| two | |", "", "End.")
    table = "\n".join(rows)
    assert [named for _, named in named_tests(table)] == [[("tests/a.py", "test_b")], []]
