"""What a hub says of a model has bounds, whoever answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pensieve.engine.loading import listing
from pensieve.engine.loading.hub import resolve
from pensieve.engine.loading.model_error import ModelError

from ...fake_hub import REPO, FakeHub, serve_hub, use_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}
    with serve_hub(FakeHub(files)) as served:
        use_hub(served.url, tmp_path, monkeypatch)
        yield served


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_S"])
def test_a_description_without_end_is_given_up(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """It took 8 GB of memory within a minute."""
    monkeypatch.setattr(listing, limit, 0)
    hub.never_ends = True
    with pytest.raises(ModelError, match=f"^the hub's description of {REPO} does not end"):
        resolve(REPO, print)


def test_a_model_of_too_many_files_is_none(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_FILES", len(hub.files) - 1)
    with pytest.raises(ModelError, match="files: not a model"):
        resolve(REPO, print)
    assert not hub.sent
