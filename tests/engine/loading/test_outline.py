"""A model is judged by the headers of its weights: what the whole folder tells, its outline tells before."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.engine.loading.hub import resolve
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo, read_model_info
from pensieve.engine.loading.outline import FIRST_BYTES

from ...fake_hub import REPO, FakeHub, serve_hub, use_hub
from ...models import write_model
from ..broken_models import WEIGHTS, edit, shard

Judged = Callable[[Path], list[ModelInfo]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve_hub(FakeHub({})) as served:
        yield served


@pytest.fixture
def judged(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Downloads what a folder holds; returns the facts of the outline and of what was downloaded."""
    use_hub(hub.url, tmp_path / "cache", monkeypatch)

    def download(folder: Path) -> list[ModelInfo]:
        hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        infos: list[ModelInfo] = []

        def judge(path: Path) -> None:
            infos.append(read_model_info(path, "tiny", "float32", 16))

        path = resolve(REPO, lambda _: None, judge)
        return [*infos, read_model_info(path, "tiny", "float32", 16)]

    return download


@pytest.mark.parametrize("num_files", [1, 2])
def test_an_outline_tells_what_the_model_tells(judged: Judged, tmp_path: Path, num_files: int) -> None:
    folder = write_model(tmp_path / "model")
    if num_files == 2:
        shard(folder)
    outlined, whole = judged(folder)
    assert replace(outlined, path=whole.path) == whole
    assert not outlined.path.exists()


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_long_header_is_fetched_whole(
    judged: Judged, hub: FakeHub, tmp_path: Path, ignores_ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pensieve.engine.loading.outline.FIRST_BYTES", 100)
    hub.ignores_ranges = ignores_ranges
    outlined, whole = judged(write_model(tmp_path / "model"))
    assert outlined.weight_bytes == whole.weight_bytes


def test_what_cannot_be_served_is_not_downloaded(judged: Judged, hub: FakeHub, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", vocab=20_000)
    edit(folder / "config.json", model_type="nosuch")
    with pytest.raises(ModelError, match="Model type nosuch not supported"):
        judged(folder)
    assert hub.sent[WEIGHTS] == FIRST_BYTES < len(hub.files[WEIGHTS]) / 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a safetensors file: bad header length"),
        (b"version https://git-lfs.github.com/spec/v1", "is not a safetensors file: bad header length"),
        (b"\x10" + b"\0" * 7 + b"{}", "is truncated: it ends inside its header"),
    ],
)
def test_files_that_hold_no_weights_are_refused(
    judged: Judged, tmp_path: Path, data: bytes, message: str
) -> None:
    folder = write_model(tmp_path / "model")
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match=f"^{REPO}/{WEIGHTS} {message}"):
        judged(folder)


def test_a_lacking_tensor_is_noticed_before_the_download(
    judged: Judged, hub: FakeHub, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    edit(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(ModelError, match=f"^{REPO} cannot be loaded: Missing .* parameters"):
        judged(folder)
    assert hub.sent[WEIGHTS] == FIRST_BYTES


def test_who_has_the_weights_is_not_judged_before(judged: Judged, tmp_path: Path) -> None:
    """There is no download to save; the model is judged when it is loaded."""
    folder = write_model(tmp_path / "model")
    assert len(judged(folder)) == 2
    next((tmp_path / "cache").glob("models--*/pensieve-checked.json")).unlink()
    assert len(judged(folder)) == 1
