"""Files of the hub as they come: in pieces, and of one commit while the hub goes on to another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pensieve.engine.loading import download
from pensieve.engine.loading.download import fetch_start
from pensieve.engine.loading.hub import resolve
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.snapshot import RemoteFile, Snapshot

from ...fake_hub import COMMIT, REPO, FakeHub, serve_hub, use_hub

WEIGHTS, NEWER = "model.safetensors", "f" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {"config.json": b"{}", WEIGHTS: bytes(range(256))}
    with serve_hub(FakeHub(files)) as served:
        use_hub(served.url, tmp_path / "cache", monkeypatch)
        yield served


def test_a_hub_that_goes_on_to_another_commit_gives_files_of_the_first(hub: FakeHub) -> None:
    """The folder that was judged and the one that is served are of one commit."""

    def judge(_: Path) -> None:
        hub.commit = NEWER

    folder = resolve(REPO, lambda _: None, judge)
    assert folder.name == COMMIT
    files = [request.split("/resolve/")[1] for request in hub.requests if "/resolve/" in request]
    assert sorted(set(files)) == [f"{COMMIT}/config.json", f"{COMMIT}/{WEIGHTS}"]
    assert resolve(REPO, lambda _: None, judge) == folder


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (bytes(256), "arrives damaged"),
        (None, f"^{REPO} has changed on the hub since it was looked up; try again$"),
    ],
)
def test_files_that_change_after_they_were_judged_are_not_served(
    hub: FakeHub, weights: bytes | None, message: str
) -> None:
    """A file that was gone was told as a hub that cannot be reached."""

    def judge(_: Path) -> None:
        hub.files["config.json"] = b'{"newer": true}'
        if weights is None:
            del hub.files[WEIGHTS]
        else:
            hub.files[WEIGHTS] = weights

    with pytest.raises(ModelError, match=message):
        resolve(REPO, lambda _: None, judge)
    hub.commit, hub.files[WEIGHTS] = NEWER, b"newer"
    folder = resolve(REPO, lambda _: None)
    assert folder.name == NEWER
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == hub.files


@pytest.mark.parametrize(("num_bytes", "num_read"), [(0, 0), (3, 2), (4, 2), (6, 3), (9, 3)])
def test_a_files_start_is_read_in_pieces(
    num_bytes: int, num_read: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pieces = iter([b"ab", b"cd", b"ef"])

    class Response:
        def iter_bytes(self) -> Iterator[bytes]:
            return pieces

    @contextmanager
    def stream(*_: Any, **__: Any) -> Iterator[Response]:
        yield Response()

    monkeypatch.setattr(download, "http_stream_backoff", stream)
    monkeypatch.setattr(download, "hf_raise_for_status", lambda _: None)
    file = RemoteFile("a.json", 6, "0" * 40, None)
    start = fetch_start(Snapshot(REPO, COMMIT, (file,), tmp_path), file, num_bytes)
    assert start == b"abcdef"[:num_bytes]
    assert len(list(pieces)) == 3 - num_read
