"""What the product's code never does: run foreign data as code, or start a shell."""

import ast
from pathlib import Path

from .figures import Figures, Row

ROOT = Path(__file__).parent.parent.parent

APART = {"tests", "scripts", "bench"}

FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "np.load", "os.system", "os.popen"}
FORBIDDEN |= {"torch.load", "yaml.load", "marshal.loads", "shelve.open", "compile"}

OWN = {("channel.py", "pickle.loads"), ("worker.py", "pickle.loads")}
"""Between the server's own two processes, over a socket that no other process has."""


def test_no_foreign_data_is_run_as_code(figures: Figures) -> None:
    found, num_files = [], 0
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in APART or ".venv" in path.parts:
            continue
        num_files += 1
        text = path.read_text(encoding="utf-8")
        found += [f"{path.name}: {call}" for call in forbidden_calls(text) if (path.name, call) not in OWN]
    told = f"{len(found)} in {num_files} files {', '.join(found)}".strip()
    asked = "0 calls of eval, exec, pickle, np.load, yaml.load, a shell"
    figures.check(Row(56, "calls in the product's code", asked, told, not found))


def test_the_gate_finds_what_it_looks_for() -> None:
    text = "eval(x)\npickle.loads(x)\nsubprocess.run(x, shell=True)\nmx.eval(x)\nre.compile(x)"
    assert forbidden_calls(text) == ["eval", "pickle.loads", "shell=True"]


def forbidden_calls(text: str) -> list[str]:
    """Return the forbidden calls of a module's text."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    shells = [
        "shell=True"
        for call in calls
        for word in call.keywords
        if word.arg == "shell" and ast.unparse(word.value) != "False"
    ]
    return [name for name in names if name in FORBIDDEN] + shells
