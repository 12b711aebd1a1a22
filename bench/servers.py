"""The compared servers: how each is installed, started and asked. No flag favours one of them.

Each peer has an environment of its own in a cache folder, and a new home folder for every start, because some
peers keep their prompt cache in it.
"""

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .config import BenchConfig, ProtocolName
from .report import installed_version
from .server_process import ServerProcess, free_port

READY_S = 300
OPENBLAS = "libopenblas.so.0"


class ServerFailed(Exception):
    """A server could not be installed or started."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A program that serves a model folder."""

    name: str
    protocol: ProtocolName
    arguments: Callable[[str, int], list[str]]  # of the model folder and the port
    version: str = ""  # on PyPI; empty for Pensieve, which is installed already

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


SERVERS = (
    ServerSpec(
        "pensieve",
        "anthropic",
        lambda model, port: [
            *(Path(sys.executable).name, "-m", "pensieve"),
            *("serve", "--model", model, "--port", str(port)),
            *("--disk-cache-gb", "0"),  # a second run would find its prompts there
        ],
    ),
    ServerSpec(
        "mlx-lm",
        "openai",
        lambda model, port: ["mlx_lm.server", "--model", model, "--port", str(port)],
        "0.32.2",
    ),
    ServerSpec(
        "vllm-mlx",
        "anthropic",
        lambda model, port: [
            *("vllm-mlx", "serve", model, "--host", "127.0.0.1", "--port", str(port)),
            *("--continuous-batching", "--max-num-seqs", "32"),
        ],
        "0.6.0",
    ),
    ServerSpec(
        "rapid-mlx",
        "anthropic",
        lambda model, port: ["rapid-mlx", "serve", model, "--yes", "--port", str(port)],
        "0.16.10",
    ),
)


def install(spec: ServerSpec, cache: Path) -> Path:
    """Install the server if it is not yet; return the folder of its commands. Raises ServerFailed."""
    if not spec.version:
        return Path(sys.executable).parent
    folder = cache / f"{spec.name}-{spec.version}"
    stamp = folder / ".installed"
    if not stamp.exists():
        requirements = [f"{spec.name}=={spec.version}"]
        if sys.platform.startswith("linux"):
            requirements.append(f"mlx[{mlx_backend()}]")  # on Linux, mlx itself brings none
        python = str(folder / "bin" / "python")
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
        stamp.touch()
    return folder / "bin"


def mlx_backend() -> str:
    """Return the MLX backend that Pensieve's own environment has."""
    return next(
        (name for name in ("cuda12", "cuda13") if installed_version(f"mlx-{name[:4]}-{name[4:]}")), "cpu"
    )


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise ServerFailed(f"{' '.join(command[1:4])} failed: {error.stderr[-500:]}") from error


@contextmanager
def running(spec: ServerSpec, commands: Path, model: Path, log: Path) -> Iterator[tuple[ServerProcess, str]]:
    """Start a server, wait until it answers, yield its process and URL, and end it. Raises ServerFailed."""
    port = free_port()
    program, *arguments = spec.arguments(str(model), port)
    home = log.parent / f"home-{spec.name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with ServerProcess(
        [str(commands / program), *arguments], environment(spec, commands, home), log
    ) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, server)
        yield server, url


def environment(spec: ServerSpec, commands: Path, home: Path) -> dict[str, str]:
    """Return a server's variables: none of the user's settings, no network, and OpenBLAS on Linux."""
    # Pensieve runs from this environment, and so from where this environment finds its modules.
    names = ["LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"]
    names += [] if spec.version else ["PYTHONPATH"]
    kept = {key: os.environ[key] for key in names if key in os.environ}
    variables = {
        **kept,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    if spec.version and openblas():  # Pensieve loads it by itself
        variables["LD_PRELOAD"] = OPENBLAS
    return variables


def openblas() -> bool:
    """Whether this system has the library that makes MLX's CPU device fast."""
    return sys.platform.startswith("linux") and ctypes.util.find_library("openblas") is not None


def wait_until_ready(url: str, server: ServerProcess) -> None:
    """Wait until the server answers a plain GET. Raises ServerFailed."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and server.is_running:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5):
                return
        except (OSError, ValueError):
            time.sleep(0.2)
    raise ServerFailed(f"does not start: {server.last_words()}")


def model_name(spec: ServerSpec, url: str, model: Path) -> str:
    """Return the model's name in requests. mlx_lm.server takes a folder; others have one model."""
    if spec.protocol == "openai":
        return str(model)
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
        name: str = json.load(answer)["data"][0]["id"]
    return name


def client(spec: ServerSpec, url: str, model: Path) -> BenchConfig:
    """Return the fleet's settings for a running server."""
    return BenchConfig(url=url, protocol=spec.protocol, model=model_name(spec, url, model))
