"""A disk tier that is asked for is there, or the server says why not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pensieve.api.command.disk_start import DiskRefused, files_of
from pensieve.cache.disk.config import DiskConfig


def test_several_devices_have_no_disk_tier(tmp_path: Path) -> None:
    """It once was left out without a word."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    one: Any = SimpleNamespace(info=SimpleNamespace(path=tmp_path), ranks=())
    two: Any = SimpleNamespace(info=one.info, ranks=("rank 0", "rank 1"))
    for config in (DiskConfig(disk_cache_gb=1), DiskConfig(cache_dir="/kv")):
        assert list(files_of(one, config)) == ["config.json"]
        with pytest.raises(DiskRefused, match="several devices"):
            files_of(two, config)
        assert files_of(two, replace(config, disk_cache_gb=0)) == files_of(two, DiskConfig())
