"""Gathers text at hand, from which the tokenizer learns its words and which distracts the model in training.

    python -m pensieve.scripts.demo_model.corpus --out corpus.txt

Nothing is downloaded. The text is documentation in /usr/share/doc, the standard library, and docstrings and
descriptions of installed packages. Two machines make different corpora, which hardly changes the model.
"""

import argparse
import ast
import random
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

PROSE_SUFFIXES = {".txt", ".md", ".rst"}
MAX_FILE_BYTES = 200_000


def read_text(path: Path) -> str:
    """Return the text of a file, or "" for a file that is not UTF-8 or larger than MAX_FILE_BYTES."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return ""
        return path.read_text(encoding="utf-8").replace("\r", "")
    except (OSError, UnicodeDecodeError):
        return ""


def docstrings(source: str) -> str:
    """Return all docstrings of a Python module, joined by blank lines."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return "\n\n".join(text for text in found if text)


def prose_files() -> Iterator[str]:
    """Yield documentation: system documents, and the descriptions of installed packages."""
    for path in sorted(Path("/usr/share/doc").rglob("*")):
        if path.suffix in PROSE_SUFFIXES:
            yield read_text(path)
    for path in sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA")):
        yield read_text(path)


def python_files(root: Path) -> Iterator[str]:
    """Yield sources under a folder, tests left out, as they repeat themselves."""
    for path in sorted(root.rglob("*.py")):
        if "test" not in str(path).lower():
            yield read_text(path)


def standard_library(limit: int) -> list[str]:
    """Return the first `limit` modules of the standard library: enough lines for an evaluation."""
    root = Path(sysconfig.get_path("stdlib"))
    return [text for path in sorted(root.glob("*.py"))[:limit] if (text := read_text(path))]


def text_lines(documents: Iterable[str]) -> list[str]:
    """Return the lines of all documents that are not blank."""
    return [line for text in documents for line in text.split("\n") if line.strip()]


def collect(code_bytes: int, prose_bytes: int, seed: int = 0) -> list[str]:
    """Return documents in random order: prose up to `prose_bytes`, sources up to `code_bytes`."""
    stdlib = list(python_files(Path(sysconfig.get_path("stdlib"))))
    installed = list(python_files(Path(sysconfig.get_path("purelib"))))
    prose = [*prose_files(), *(docstrings(text) for text in stdlib + installed)]
    rng = random.Random(seed)
    return take(prose, prose_bytes, rng) + take(stdlib, code_bytes, rng)


def take(documents: list[str], num_bytes: int, rng: random.Random) -> list[str]:
    """Return a random choice of the documents of over 400 characters, up to `num_bytes` together."""
    documents = [text for text in documents if len(text) > 400]
    rng.shuffle(documents)
    chosen: list[str] = []
    for text in documents:
        if num_bytes <= 0:
            break
        chosen.append(text)
        num_bytes -= len(text)
    return chosen


def main() -> None:
    """Write the corpus as one file, documents separated by form feeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--code-bytes", type=int, default=4_000_000)
    parser.add_argument("--prose-bytes", type=int, default=14_000_000)
    options = parser.parse_args()
    documents = collect(options.code_bytes, options.prose_bytes)
    options.out.write_text("\f".join(text.replace("\f", "\n") for text in documents), encoding="utf-8")
    print(f"{len(documents)} documents, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
