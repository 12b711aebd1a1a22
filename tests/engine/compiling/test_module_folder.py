import os
import threading
import time
from pathlib import Path

import pytest

from pensieve.engine.compiling.kernel_text import KernelText
from pensieve.engine.compiling.module_folder import (
    VARIABLE,
    module_path,
    private_folder,
    tidy,
    use_private_folder,
    write_module,
)

KERNEL = KernelText("custom_kernel_one", "text")


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of caches; the test has an environment of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    return tmp_path / "caches"


def test_each_version_and_gpu_has_a_folder_that_is_the_users_alone(caches: Path) -> None:
    use_private_folder("0.32.4", "sm_90a")
    folder = caches / "pensieve" / "kernels" / "mlx-0.32.4-sm_90a"
    assert os.environ[VARIABLE] == str(folder)
    assert private_folder() == folder
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (folder, *folder.parents[:2]))


def test_the_users_choice_stays(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/somewhere")
    use_private_folder("0.32.4", "sm_90a")
    assert os.environ[VARIABLE] == "/somewhere"
    assert private_folder() is None, "it is not there"
    assert not caches.exists()


def test_a_folder_that_others_write_to_is_not_used(caches: Path, tmp_path: Path) -> None:
    (caches / "pensieve").mkdir(parents=True)
    (caches / "pensieve").chmod(0o777)
    use_private_folder("0.32.4", "sm_90a")
    place = tmp_path / f"pensieve-{os.getuid()}" / "kernels" / "mlx-0.32.4-sm_90a"
    assert private_folder() == place
    (tmp_path / f"pensieve-{os.getuid()}").chmod(0o777)
    del os.environ[VARIABLE]
    use_private_folder("0.32.4", "sm_90a")
    assert os.environ[VARIABLE] == "", "MLX keeps nothing"
    assert private_folder() is None


def test_long_names_are_cut_into_folders_as_mlx_cuts_them(tmp_path: Path) -> None:
    assert module_path(tmp_path, "a" * 245) == tmp_path / f"{'a' * 245}.ptx"
    assert module_path(tmp_path, "a" * 246) == tmp_path / ("a" * 245) / "a.ptx"
    kernel = KernelText("b" * 300, "text")
    write_module(tmp_path, kernel, "mangled", b"code")
    path = module_path(tmp_path, kernel.module_name)
    assert path.read_bytes() == b"code"
    assert path.with_suffix(".txt").read_text() == f"{kernel.expression}\tmangled\n"


def test_who_finds_a_module_finds_all_of_it_while_others_write_it(tmp_path: Path) -> None:
    path, code = module_path(tmp_path, KERNEL.module_name), bytes(range(256)) * 1000

    def write() -> None:
        for _ in range(20):
            write_module(tmp_path, KERNEL, "m", code)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_bytes() == code
            assert path.with_suffix(".txt").read_text() == f"{KERNEL.expression}\tm\n"
    assert {file.suffix for file in tmp_path.iterdir()} == {".ptx", ".txt"}, "nothing else is left"


def test_old_folders_unfinished_files_and_the_oldest_of_too_many_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pensieve.engine.compiling.module_folder.MAX_BYTES", 250)
    own, old, recent = (tmp_path / name for name in ("own", "old", "recent"))
    for folder in (own, old, recent):
        folder.mkdir()
    now = time.time()
    os.utime(old, (now - 40 * 86_400,) * 2)
    for name, suffixes, age_s in [
        ("newest", (".ptx", ".txt"), 100),
        ("killed", (".ptx",), 200),
        ("begun", (".ptx",), 5),
        ("oldest", (".ptx", ".txt", ".cu"), 300),
    ]:
        for suffix in suffixes:
            (own / f"{name}{suffix}").write_bytes(b"x" * 50)
            os.utime(own / f"{name}{suffix}", (now - age_s,) * 2)
    tidy(own)
    assert {path.name for path in own.iterdir()} == {"newest.ptx", "newest.txt", "begun.ptx"}
    assert not old.exists()
    assert recent.exists()
