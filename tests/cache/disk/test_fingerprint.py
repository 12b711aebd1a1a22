import os
from pathlib import Path

import pytest

from pensieve.cache.disk import fingerprint
from pensieve.cache.disk.fingerprint import fingerprint_of

FACTS = {"bits": "16", "layout": "a"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_same_model_has_one_fingerprint_and_is_hashed_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = tmp_path / "hashes.json"
    first = fingerprint_of(model, FACTS, memo)
    monkeypatch.setattr(fingerprint, "_hash_file", lambda file: pytest.fail(f"{file} is hashed again"))
    assert fingerprint_of(model, dict(reversed(FACTS.items())), memo) == first
    assert memo.stat().st_mode & 0o777 == 0o600


def test_other_weights_are_noticed_whatever_their_size_and_time(model: Path, tmp_path: Path) -> None:
    memo, weights = tmp_path / "hashes.json", model / "model.safetensors"
    status = weights.stat()
    first = fingerprint_of(model, FACTS, memo)
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint_of(model, FACTS, memo) != first
    weights.write_bytes(b"weights")
    assert fingerprint_of(model, FACTS, memo) == first


def test_each_file_and_fact_counts(model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "hashes.json"
    found = {fingerprint_of(model, facts, memo) for facts in (FACTS, {**FACTS, "bits": "8"}, {"bits": "16"})}
    (model / "chat_template.jinja").touch()
    found.add(fingerprint_of(model, FACTS, memo))
    (model / "chat_template.jinja").rename(model / "other.jinja")
    found.add(fingerprint_of(model, FACTS, memo))
    assert len(found) == 5


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_memo_is_as_none(model: Path, tmp_path: Path, content: str) -> None:
    memo = tmp_path / "hashes.json"
    first = fingerprint_of(model, FACTS, memo)
    memo.write_text(content)
    assert fingerprint_of(model, FACTS, memo) == first


def test_a_memo_that_cannot_be_written_does_no_harm(model: Path, tmp_path: Path) -> None:
    assert fingerprint_of(model, FACTS, tmp_path / "none" / "hashes.json")
    assert not (tmp_path / "none").exists()


def test_files_of_the_hub_are_links(model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "hashes.json"
    first = fingerprint_of(model, FACTS, memo)
    blob = tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(blob)
    assert fingerprint_of(model, FACTS, memo) == first
