import os
from pathlib import Path

import mlx.core as mx
import pytest

from pensieve.cache.disk.private_folder import is_private
from pensieve.engine.compiling.user_folder import use_private_temporary_folder
from pensieve.engine.process import EngineProcess


def compile_for_cpu() -> str:
    """Have MLX compile a function; return the folder for temporary files."""
    with mx.stream(mx.cpu):
        mx.eval(mx.compile(lambda x: mx.abs(x) - x * 2)(mx.array([1.0])))
    return os.environ["TMPDIR"]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that all users can write to; the user has an empty cache."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return folder


def test_the_engine_loads_no_compiled_code_that_another_user_can_write(shared: Path) -> None:
    with EngineProcess() as engine:
        folder = Path(engine.call(compile_for_cpu))
    assert folder.parent == shared.parent / "caches" / "pensieve" / "temporary"
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (folder, *folder.parents[:2]))
    assert list(folder.glob("mlx/*/cpu/*.so"))
    assert not list(shared.iterdir())


def test_a_folder_of_the_users_own_stays(shared: Path) -> None:
    shared.chmod(0o755)
    use_private_temporary_folder()
    assert os.environ["TMPDIR"] == str(shared)
    assert not (shared.parent / "caches").exists()


def test_without_any_place_of_the_users_the_folder_is_new(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    (shared / f"pensieve-{os.getuid()}").mkdir()
    (shared / f"pensieve-{os.getuid()}").chmod(0o777)
    use_private_temporary_folder()
    folder = Path(os.environ["TMPDIR"])
    assert folder.parent == shared
    assert is_private(folder)
    assert not list(folder.iterdir())


def test_a_link_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert not is_private(tmp_path / "link")
