"""`pensieve doctor`: looks at what a server needs on this machine, and says what to do."""

import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import constants, get_token

from ... import PensieveError, __version__
from ...engine import SYSTEM_BLAS
from ...engine.blas import INSTALL_HINT
from ...engine.config import EngineConfig
from ...engine.loading.device import Device, computes, find_device
from ...engine.loading.hub import explain, find_local_folder
from ...engine.loading.listing import fetch_listing
from ...engine.loading.memory_plan import gigabytes
from ...engine.process import EngineProcess
from ..api_keys import ApiKeys
from ..config import ServerConfig
from ..keys_file import is_open_to_others
from .certificates import end_of_validity
from .console import say
from .launch import find_client, find_server
from .local_models import judge_model
from .platforms import installed

PACKAGES = ("mlx", "mlx-lm", "huggingface-hub", "fastapi", "uvicorn", "llguidance", "tokenizers", "numpy")

LITTLE_MEMORY_BYTES = 4e9
"""Memory below which none of the models that people use for coding fits."""

LITTLE_DISK_BYTES = 10e9
"""Free disk below which most models cannot be downloaded."""

SOON_S = 30 * 86_400
"""A certificate that ends within this time should be replaced now."""

CLIENT_S = 20
"""Seconds in which Claude Code says its version."""


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Literal["ok", "note", "bad"]  # bad: a server does not work here; note: something is missing
    subject: str
    text: str


class Unsound(PensieveError):
    """The doctor has found what keeps a server from working."""


def examine(
    engine: EngineProcess, config: EngineConfig, server: ServerConfig, max_batch: int, online: bool
) -> None:
    """Print a line for each thing that a server with these settings needs. Raises Unsound.

    online: ask the hub as well; nothing else connects to anything outside this machine.
    """
    findings = [
        versions(),
        *check_device(engine),
        check_model(engine, config, max_batch),
        check_disk(Path(constants.HF_HUB_CACHE), config.model),
        check_port(server),
        *check_keys(server),
        *check_tls(server),
        check_hub(config.model) if online else describe_hub(),
        check_client(),
    ]
    for verdict, subject, text in findings:
        say(f"{verdict:5} {subject:8} {text}")
    if num_bad := sum(finding.verdict == "bad" for finding in findings):
        raise Unsound(f"{num_bad} of these would keep a server from working")


def versions() -> Finding:
    """Name the versions of what answers depend on."""
    names = [f"pensieve {__version__}", f"Python {platform.python_version()}", platform.platform(terse=True)]
    return Finding("ok", "versions", ", ".join(names + [f"{name} {installed(name)}" for name in PACKAGES]))


def check_device(engine: EngineProcess) -> list[Finding]:
    """Let MLX compute, and look at the device and its memory."""
    try:
        device, is_right = engine.call(find_device), engine.call(computes)
    except Exception as error:
        return [Finding("bad", "device", f"MLX does not compute here: {error}")]
    name = device.description
    if not is_right:
        found = Finding("bad", "device", f"{name} computes a matrix product wrongly")
    elif device.kind == "cpu" and sys.platform.startswith("linux") and SYSTEM_BLAS is None:
        found = Finding("note", "device", f"{name}, without a fast BLAS: {INSTALL_HINT}")
    else:
        found = Finding("ok", "device", name)
    return [found, check_memory(device)]


def check_memory(device: Device) -> Finding:
    """Look at the memory that the device may use."""
    available = gigabytes(device.available_bytes)
    limit = wired_limit()
    if device.available_bytes < LITTLE_MEMORY_BYTES:
        return Finding("note", "memory", f"{available} available: room for small models only{limit}")
    return Finding("ok", "memory", f"{available} available for weights and KV{limit}")


def wired_limit() -> str:
    """Describe the share of the memory that macOS lets the GPU use, if somebody has set it."""
    if sys.platform != "darwin" or shutil.which("sysctl") is None:
        return ""
    name = "iogpu.wired_limit_mb"
    said = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
    return f"; {name} is set to {said}" if said not in ("", "0") else f"; {name} is macOS's own"


def check_model(engine: EngineProcess, config: EngineConfig, max_batch: int) -> Finding:
    """Plan the model if it is on this machine."""
    name = config.model
    if find_local_folder(name) is None:
        return Finding("note", "model", f"{name} is not here: `pensieve pull {name}` fetches it")
    model = judge_model(engine, config, max_batch)
    return Finding("ok" if model.is_served else "bad", "model", f"{name}: {model.size}, {model.verdict}")


def check_disk(cache: Path, model: str) -> Finding:
    """Look at the folder in which models are kept. A model that is here needs no room in it."""
    try:
        folder = next(path for path in (cache, *cache.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        is_writable = os.access(folder, os.W_OK)
    except OSError as error:
        return Finding("bad", "disk", f"{cache} cannot be read ({error.strerror}): set HF_HOME")
    text = f"{gigabytes(free)} free for models in {cache}"
    if not is_writable:
        text = f"{folder} cannot be written: set HF_HOME to a folder that can"
        return Finding("bad" if find_local_folder(model) is None else "note", "disk", text)
    return Finding("note" if free < LITTLE_DISK_BYTES else "ok", "disk", text)


def check_port(config: ServerConfig) -> Finding:
    """See who answers where the server would listen."""
    try:
        running = find_server(config)
    except PensieveError as error:
        return Finding("bad", "port", str(error))
    if running is not None:
        return Finding("ok", "port", f"a server answers at {running.url}, with {running.model}")
    return Finding("ok", "port", f"{config.port} is free on {config.host}")


def check_keys(config: ServerConfig) -> list[Finding]:
    """Read the file of API keys, if one is named, as the server does."""
    if config.api_keys_file is None:
        return []
    try:
        names = ApiKeys(config).names
    except PensieveError as error:
        return [Finding("bad", "keys", str(error))]
    text = f"{len(names)} of {config.api_keys_file}: {', '.join(sorted(names))}"
    if is_open_to_others(config.api_keys_file):
        text += "; others on this machine may use the file: `chmod 600` it"
        return [Finding("note", "keys", text)]
    return [Finding("ok", "keys", text)]


def check_tls(config: ServerConfig) -> list[Finding]:
    """See whether a server can speak TLS with the certificate and key that are named, and for how long."""
    if config.tls_cert is None or config.tls_key is None:
        return []
    try:
        end_s = end_of_validity(config)
    except PensieveError as error:
        return [Finding("bad", "tls", str(error))]
    day = datetime.fromtimestamp(end_s, UTC).date().isoformat()
    text = f"{config.tls_cert} is valid until {day}, and {config.tls_key} is its key"
    if is_open_to_others(config.tls_key):
        return [Finding("note", "tls", f"{text}; others on this machine may read the key: `chmod 600` it")]
    if end_s - time.time() < SOON_S:
        return [Finding("note", "tls", f"{text}: soon a new one is needed")]
    return [Finding("ok", "tls", text)]


def describe_hub() -> Finding:
    """Say what is known of the hub without asking it."""
    token = "a token" if get_token() else "no token"
    state = "not asked, as HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "not asked (--online does)"
    return Finding("ok", "hub", f"{constants.ENDPOINT}: {state}; {token}")


def check_hub(model: str) -> Finding:
    """Ask the hub for the model's description."""
    try:
        fetch_listing(model)
    except PensieveError as error:
        return Finding("note", "hub", str(error))
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        return Finding("note", "hub", str(explain(model, error)))
    return Finding("ok", "hub", f"{constants.ENDPOINT} knows {model}")


def check_client() -> Finding:
    """Find Claude Code, and have it say its version."""
    try:
        client = find_client()
        said = subprocess.run(
            [client, "--version"], capture_output=True, text=True, check=True, timeout=CLIENT_S
        ).stdout.strip()
    except PensieveError as error:
        return Finding("note", "client", str(error))
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("note", "client", f"Claude Code does not start: {error}")
    return Finding("ok", "client", f"{said}, {client}")
