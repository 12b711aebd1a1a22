"""Getting a model: the real hub client against a hub on loopback that misbehaves to order."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from pensieve import PensieveError
from pensieve.engine.loading.download import PARTIAL
from pensieve.engine.loading.hub import explain, resolve
from pensieve.engine.loading.snapshot import RemoteFile

from ...fake_hub import COMMIT, REPO, FakeHub, serve_hub, use_hub

WEIGHTS = "model.safetensors"
CHUNK = 2**16  # what the client reads at a time here, and so the step in which a download is kept

RESOLVE = f"""
import sys
from huggingface_hub import constants
from pensieve.engine.loading.hub import resolve
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
resolve(sys.argv[1], print)
"""


@dataclass
class Client:
    """Runs `resolve` with a cache of its own."""

    home: Path

    @property
    def storage(self) -> Path:
        return self.home / ("models--" + REPO.replace("/", "--"))

    @property
    def weights(self) -> Path:
        return self.storage / "snapshots" / COMMIT / WEIGHTS

    def run(self, name: str = REPO) -> str:
        """What `resolve` says, in lines; the last one is its result."""
        lines: list[str] = []
        try:
            result = str(resolve(name, lambda line: lines.append(f"say: {line}")))
        except PensieveError as error:
            result = f"error: {error}"
        return "\n".join([*lines, result])


@pytest.fixture(scope="module")
def weights() -> bytes:
    return os.urandom(2 * CHUNK + 12345)


@pytest.fixture
def hub(weights: bytes) -> Iterator[FakeHub]:
    files = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        WEIGHTS: weights,
        "modeling_evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "onnx/model.safetensors": b"another variant",
    }
    with serve_hub(FakeHub(files)) as served:
        yield served


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    return make_client(hub.url, tmp_path, monkeypatch)


def make_client(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    use_hub(endpoint, folder / "hub", monkeypatch)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    return Client(folder / "hub")


def test_a_model_is_downloaded_without_its_code(client: Client, hub: FakeHub) -> None:
    folder = Path(client.run().splitlines()[-1])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS, "tokenizer.json"]
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_the_hub_is_asked_for_the_model_and_for_nothing_else(
    client: Client, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client once fetched a list of agents, to tell which one had started the program."""
    monkeypatch.setenv("AI_AGENT", "somebody")
    client.run()
    assert hub.requests
    assert [asked for asked in hub.requests if REPO not in asked] == []


def test_the_second_start_asks_nobody(client: Client, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.run().splitlines()[-1]
    hub.requests.clear()
    assert client.run() == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert client.run() == first
    assert hub.requests == []


def test_the_hubs_own_client_finds_the_model_offline(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.run()
    (client.storage / "pensieve-checked.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    note, folder = client.run().splitlines()
    assert note == f"say: the hub cannot be asked; using the unchecked copy in {folder}"
    assert folder == str(client.weights.parent)


def test_a_cut_connection_is_taken_up_where_it_broke(client: Client, hub: FakeHub) -> None:
    hub.cut_after = CHUNK + 1000
    client.run()
    assert hub.ranges == [f"bytes={CHUNK}-"]
    assert client.weights.read_bytes() == hub.files[WEIGHTS]


def test_a_killed_download_goes_on_in_the_next_process(client: Client, hub: FakeHub) -> None:
    """The hub's own client begins anew, and leaves what it had as an orphan."""
    hub.stall_after = CHUNK + 1000
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(client.home), "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", RESOLVE, REPO], env=inherited | own, stdout=subprocess.DEVNULL
    ) as child:
        wait_for_partial(client)
        child.kill()
    said = client.run()
    assert f"downloading {REPO}: 1 files" in said
    assert hub.ranges == [f"bytes={CHUNK}-"]
    assert client.weights.read_bytes() == hub.files[WEIGHTS]
    assert list(client.storage.rglob("*partial*")) == []


def wait_for_partial(client: Client) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(file.stat().st_size >= CHUNK for file in client.storage.glob("blobs/*partial")):
            return
        time.sleep(0.02)
    raise AssertionError("the download did not begin")


def test_two_downloads_do_not_write_one_file(client: Client, hub: FakeHub) -> None:
    """A lock belongs to an open file, so that a second opening stands for another process."""
    partial = client.storage / "blobs" / (hub.etag(WEIGHTS) + PARTIAL)
    partial.parent.mkdir(parents=True)
    with partial.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said = client.run()
    assert said.splitlines()[-1] == f"error: {REPO} is being downloaded by another process"
    assert not hub.sent[WEIGHTS]


def test_orphans_are_swept_when_they_are_old(client: Client) -> None:
    blobs = client.storage / "blobs"
    blobs.mkdir(parents=True)
    old, new = blobs / "a.12345678.incomplete", blobs / "b.12345678.incomplete"
    other = blobs / (64 * "a" + PARTIAL)  # of a commit that the hub no longer shows
    for file in (old, new, other):
        file.write_bytes(b"part")
    for file in (old, other):
        os.utime(file, (1, 1))
    client.run()
    assert not old.exists()
    assert not other.exists()
    assert new.exists()


def test_a_flipped_bit_is_noticed_and_fetched_again(client: Client, hub: FakeHub) -> None:
    hub.flips = 1
    assert f"say: {WEIGHTS} is damaged: fetching it again" in client.run().splitlines()
    assert client.weights.read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_bit_that_is_always_flipped_is_refused(client: Client, hub: FakeHub, name: str) -> None:
    hub.flips, hub.flipped = 100, name
    expected = f"error: {REPO}: {name} arrives damaged (its hash is not the hub's)"
    assert client.run().splitlines()[-1] == expected
    assert not (client.weights.parent / name).exists()


def test_what_another_program_has_downloaded_is_checked(client: Client, hub: FakeHub) -> None:
    """The hub's own client checks no hash, so the file may be broken for a long time already."""
    client.run()
    (client.storage / "pensieve-checked.json").unlink()
    blob = client.weights.resolve()
    data = blob.read_bytes()
    blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert f"say: {WEIGHTS} is damaged: fetching it again" in client.run().splitlines()
    assert client.weights.read_bytes() == hub.files[WEIGHTS]


def test_a_file_that_was_cut_after_the_check_is_fetched_again(client: Client, hub: FakeHub) -> None:
    client.run()
    blob = client.weights.resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    client.run()
    assert client.weights.read_bytes() == hub.files[WEIGHTS]


def test_a_gated_model_says_so(client: Client, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for hub.guards_files_only in (False, True):
        hub.token = "secret"
        expected = f"error: {REPO} is gated: accept its terms on the hub, then set HF_TOKEN"
        assert client.run().splitlines()[-1] == expected
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert client.run().splitlines()[-1] == str(client.weights.parent)


def test_an_unknown_model_says_so(client: Client) -> None:
    expected = "error: no such model on the hub: nobody/nothing (a private one needs HF_TOKEN)"
    assert client.run("nobody/nothing") == expected


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ("tiny-Q4_K_M.gguf", " (found pytorch_model.bin, a format that Pensieve does not read)"),
        ("consolidated.safetensors", " (found consolidated.safetensors, a name that Pensieve does not read)"),
    ],
)
def test_a_model_in_another_format_says_so(client: Client, hub: FakeHub, other: str, found: str) -> None:
    del hub.files[WEIGHTS], hub.files["onnx/model.safetensors"]
    hub.files[other] = b"weights"
    end = ": not a model that MLX can load"
    assert client.run() == f"error: {REPO} on the hub has no model*.safetensors{found}{end}"


def test_a_file_is_no_model(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    assert client.run(str(file)).startswith(f"error: {file} is a file: a model is a folder with ")


def test_an_unreachable_hub_points_at_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = make_client("http://127.0.0.1:9", tmp_path, monkeypatch).run()
    assert said.startswith(f"error: the hub cannot be reached for {REPO} (ConnectError")
    assert said.endswith("try again, or --model demo")


def test_offline_without_a_copy_points_at_the_demo(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"error: {REPO} is not in the cache and HF_HUB_OFFLINE is set; try --model demo"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert client.run() == expected


def test_a_full_disk_is_noticed_before_the_download(client: Client, hub: FakeHub) -> None:
    hub.pretended_size = 10**18
    said = client.run()
    assert said.startswith(f"error: disk full: {REPO} needs 1,000,000,000,000,0")
    assert said.endswith("are free")
    assert not any("resolve" in request for request in hub.requests)


def test_a_disk_that_fills_up_is_told_from_a_lost_hub() -> None:
    told = explain(REPO, OSError(errno.ENOSPC, "No space left on device"))
    assert str(told) == f"disk full while downloading {REPO}; the next start goes on from here"


@pytest.mark.parametrize("name", ["nothing", "./nothing", "../a/b", "/no/where", "~/nothing/here", "a/b/c"])
def test_names_that_are_no_hub_ids_are_folders(client: Client, hub: FakeHub, name: str) -> None:
    assert client.run(name).startswith("error: no such model folder: ")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../../../evil", "x" * 40, "0123", "A" * 40])
def test_a_hostile_hub_names_no_file_of_the_users(client: Client, hub: FakeHub, name: str) -> None:
    """Hashes and commits became paths unchecked: files outside the cache could be removed or written."""
    hub.commit = name
    assert client.run().startswith(f"error: the hub names no commit of {REPO}: ")
    hub.commit = COMMIT
    for key in ("sha256", "blobId"):
        hub.lies = {key: name}
        said = client.run()
        assert said.startswith("error: the hub describes a file as none can be: "), said
    assert not list(client.home.rglob("*"))


def test_a_local_folder_is_taken_as_it_is(client: Client, tmp_path: Path) -> None:
    assert client.run(str(tmp_path)) == str(tmp_path)


def test_a_small_file_of_a_large_size_is_no_file_of_a_model() -> None:
    """It would be fetched into memory."""
    with pytest.raises(PensieveError, match=r"as none can be: 'config\.json'"):
        RemoteFile("config.json", 10**10, "0" * 40, None)
