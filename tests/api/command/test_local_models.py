"""Models that are found, fetched, listed and looked at before a server starts."""

import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pensieve.api.command import doctor
from pensieve.api.command.doctor import Finding, Unsound, examine
from pensieve.api.command.local_models import find_model, print_models, pull
from pensieve.api.config import ServerConfig
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.model_error import ModelError

from ...engine.broken_models import WEIGHTS, edit
from ...fake_hub import REPO, FakeHub, serve_hub, use_hub
from ...models import write_model

ENGINE: Any = SimpleNamespace(call=lambda function, *arguments: function(*arguments))
"""Stands for the engine's process."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(FakeHub({})) as served:
        use_hub(served.url, tmp_path / "cache", monkeypatch)
        yield served


def offer(hub: FakeHub, folder: Path) -> EngineConfig:
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return EngineConfig(model=REPO)


def test_the_plan_is_told_once_and_before_the_download(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = find_model(ENGINE, offer(hub, write_model(tmp_path / "model")), max_batch=32)
    told = capsys.readouterr().out
    assert told.count("model    someone/tiny: llama") == told.count("device ") >= 1
    assert told.index("context ") < told.index("downloading someone/tiny: 1 files")
    assert (planned.info.path / WEIGHTS).is_file()


def test_a_model_that_cannot_be_served_is_not_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    """The refusal came after a download of 45 GB."""
    folder = write_model(tmp_path / "model")
    edit(folder / "config.json", model_type="nosuch")
    settings = offer(hub, folder)
    with pytest.raises(ModelError, match=r"^someone/tiny cannot be loaded: Model type nosuch not supported"):
        find_model(ENGINE, settings, max_batch=32)
    assert hub.sent[WEIGHTS] == 100_000


def test_a_model_that_does_not_fit_is_not_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    settings = replace(offer(hub, write_model(tmp_path / "model")), kv_cache_gb=10_000)
    with pytest.raises(ModelError, match=r"^not enough memory: --kv-cache-gb 10000 is"):
        find_model(ENGINE, settings, max_batch=32)
    assert hub.sent[WEIGHTS] == 100_000


def test_a_tokenizer_that_cannot_be_read_is_told_before_the_download(hub: FakeHub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"^the tokenizer in someone/tiny cannot be loaded: "):
        find_model(ENGINE, offer(hub, folder), max_batch=32)
    assert hub.sent[WEIGHTS] == 100_000


def test_what_was_pulled_is_listed_and_needs_no_hub(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = offer(hub, write_model(tmp_path / "model"))
    pull(ENGINE, config, max_batch=32)
    folder = capsys.readouterr().out.splitlines()[-1].removeprefix("folder ").strip()
    assert (Path(folder) / WEIGHTS).is_file()
    num_requests = len(hub.requests)
    print_models(ENGINE, config, max_batch=32)
    demo, tiny = capsys.readouterr().out.splitlines()
    assert demo.split()[0] == "demo"
    assert tiny.split()[0] == REPO
    assert "context 8,192; room for " in tiny
    assert len(hub.requests) == num_requests


def test_the_list_says_why_a_model_is_not_served(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = offer(hub, write_model(tmp_path / "model"))
    pull(ENGINE, config, max_batch=32)
    path = next((tmp_path / "cache").rglob("config.json"))
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | {"model_type": "nosuch"}))
    (tmp_path / "cache" / "models--someone--half").mkdir()
    (tmp_path / "cache" / "models--no one--odd").mkdir()
    capsys.readouterr()
    print_models(ENGINE, config, max_batch=32)
    _, half, tiny = capsys.readouterr().out.splitlines()
    assert half.split(maxsplit=2)[::2] == [
        "someone/half",
        "not here, or not whole: `pensieve pull` fetches it",
    ]
    assert "not served: " in tiny
    assert "nosuch" in tiny


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_doctor_finds_a_sound_machine_sound(
    hub: FakeHub,
    tmp_path: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = offer(hub, write_model(tmp_path / "model"))
    pull(ENGINE, config, max_batch=32)
    monkeypatch.setenv("PENSIEVE_CLAUDE", str(script(tmp_path / "claude", "echo 9.9.9")))
    capsys.readouterr()
    examine(ENGINE, config, ServerConfig(port=free_port), max_batch=32, online=True)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "note"}
    subjects = {line.split()[1]: line for line in lines}
    assert list(subjects) == ["versions", "device", "memory", "model", "disk", "port", "hub", "client"]
    assert "context 8,192" in subjects["model"]
    assert subjects["hub"].endswith(f"knows {REPO}")
    assert "9.9.9" in subjects["client"]


def test_the_doctor_says_what_is_wrong(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: Any = SimpleNamespace(call=lambda *_: 1 / 0)
    monkeypatch.setenv("PENSIEVE_CLAUDE", str(tmp_path / "nowhere"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = ServerConfig(port=other.getsockname()[1])
        other.settimeout(0)
        monkeypatch.setattr("pensieve.api.command.launch.PROBE_S", 0.1)
        with pytest.raises(Unsound, match=r"^2 of these would keep a server from working"):
            examine(broken, EngineConfig(model="someone/else"), server, max_batch=32, online=False)
    assert not hub.requests
    said = capsys.readouterr().out
    assert "bad   device   MLX does not compute here: division by zero" in said
    assert "note  model    someone/else is not here: `pensieve pull someone/else` fetches it" in said
    assert "bad   port " in said
    assert "not asked (--online does)" in said
    assert "note  client   Claude Code is not installed" in said


def test_the_doctor_says_so_where_the_hub_has_no_such_model(hub: FakeHub) -> None:
    found = doctor.check_hub("someone/gone")
    assert found.verdict == "note"
    assert "someone/gone" in found.text


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    text = f"{tmp_path} cannot be written: set HF_HOME to a folder that can"
    assert doctor.check_disk(tmp_path / "cache", "someone/else") == Finding("bad", "disk", text)
    assert doctor.check_disk(tmp_path / "cache", "demo") == Finding("note", "disk", text)
