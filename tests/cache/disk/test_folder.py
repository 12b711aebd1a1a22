import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.cache.disk.config import DiskConfig
from pensieve.cache.disk.fingerprint import identities
from pensieve.cache.disk.folder import FolderError, open_folder
from pensieve.cache.disk.open_tier import KeptModel, open_tier
from pensieve.cache.disk.segment_file import temporary_path

from .disk import Disk, prompt


@pytest.fixture
def numbers() -> random.Random:
    return random.Random(5)


def test_one_server_has_the_folder(tmp_path: Path) -> None:
    with open_folder(tmp_path / "new" / "kv") as first:
        with pytest.raises(FolderError, match="used by another server"):
            open_folder(first.path)
        assert first.path.stat().st_mode & 0o777 == 0o700
    open_folder(first.path).close()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(FolderError, match="nobody else can write"):
        open_folder(tmp_path)


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(FolderError):
        open_folder(tmp_path)


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kv")
    with pytest.raises(FolderError):
        open_folder(tmp_path / "link")


def test_a_linked_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(FolderError):
        open_folder(tmp_path)
    assert not (tmp_path / "precious").exists()


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match="a folder of its own"):
        open_folder(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_files_of_other_names_count_and_stay(tmp_path: Path, numbers: random.Random) -> None:
    disk = Disk(tmp_path, limit=60_000)
    disk.save(prompt(numbers, 3))
    disk.close()
    strangers = [tmp_path / "big", *(one.parent / "notes.kv" for one in disk.kept())]
    for stranger in strangers:
        stranger.write_bytes(bytes(10_000))
    disk = Disk(tmp_path, limit=60_000)
    for _ in range(10):
        disk.save(prompt(numbers, 5))
        disk.check_limit()
    assert all(stranger.exists() for stranger in strangers)
    assert disk.load(prompt(numbers, 1)) == 0


def test_unfinished_files_go_at_the_start(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path), prompt(numbers, 3)
    disk.save(tokens)
    path = temporary_path(os.fspath(disk.kept()[0]))
    Path(path).write_bytes(bytes(5000))
    disk.close()
    again = Disk(tmp_path)
    assert not os.path.exists(path)
    assert again.load(tokens) == 3
    again.check_accounts()


def test_the_folder_may_vanish(tmp_path: Path, numbers: random.Random) -> None:
    disk, tokens = Disk(tmp_path / "kv"), prompt(numbers, 3)
    disk.save(tokens)
    (tmp_path / "kv").rename(tmp_path / "elsewhere")
    assert disk.load(tokens) == 0
    assert disk.save(tokens) == 0
    disk.close()


@pytest.fixture
def model(tmp_path: Path) -> KeptModel:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return KeptModel(folder, {"bits": "16"}, 1000, identities(folder))


def test_a_second_server_runs_without_a_tier_and_says_so(
    tmp_path: Path, model: KeptModel, caplog: pytest.LogCaptureFixture
) -> None:
    config = DiskConfig(disk_cache_gb=0.001)
    first = open_tier(tmp_path / "kv", config, model)
    assert first is not None
    assert open_tier(tmp_path / "kv", config, model) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"no KV is kept on disk: {tmp_path / 'kv'} is used by another server"
    ]
    first.close()
    again = open_tier(tmp_path / "kv", config, model)
    assert again is not None
    assert again.root == first.root
    assert again.stats.limit_bytes == 10**6
    again.close()


def test_a_model_that_cannot_be_read_gives_the_folder_back(tmp_path: Path, model: KeptModel) -> None:
    config = DiskConfig()
    assert open_tier(tmp_path / "kv", config, KeptModel(tmp_path / "nothing", {}, 1, {})) is None
    tier = open_tier(tmp_path / "kv", config, model)
    assert tier is not None
    tier.close()


def test_a_model_that_was_replaced_while_it_was_loaded_has_no_tier(
    tmp_path: Path, model: KeptModel, caplog: pytest.LogCaptureFixture
) -> None:
    """What was hashed would not be what was loaded, and its KV that of another model."""
    weights = model.folder / "model.safetensors"
    status = weights.stat()
    weights.write_bytes(bytes(999) + b"1")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert open_tier(tmp_path / "kv", DiskConfig(), model) is None
    assert len(caplog.records) == 1
    tier = open_tier(tmp_path / "kv", DiskConfig(), replace(model, loaded=identities(model.folder)))
    assert tier is not None
    tier.close()


def test_the_limit_is_a_tenth_of_what_is_free() -> None:
    assert DiskConfig(disk_cache_gb=None).limit_bytes(9_000_000_000, 1_000_000_000) == 1_000_000_000
    assert DiskConfig(disk_cache_gb=None).limit_bytes(10**12, 0) == 16_000_000_000
    assert DiskConfig(disk_cache_gb=0).limit_bytes(10**12, 0) == 0


@pytest.mark.parametrize("settings", [{"cache_dir": " "}, {"disk_cache_gb": -1}, {"disk_cache_gb": 1e9}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="--"):
        DiskConfig(**settings)  # type: ignore[arg-type]
