"""A model hub on loopback: the few endpoints that the real hub client asks, with faults to order."""

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

REPO = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the server holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    token: str | None = None  # asked for, when the model is gated
    cut_after: int | None = None  # bytes of a file's answer before the connection is closed, once
    stall_after: int | None = None  # bytes of a file's answer before nothing comes any more, once
    guards_files_only: bool = False  # a gated model may still show what it consists of
    pretended_size: int | None = None  # of the weights
    ignores_ranges: bool = False  # each answer holds the whole file
    flips: int = 0  # answers for the flipped file that get one wrong byte
    flipped: str = "model.safetensors"
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)  # that were to go on to a file's end
    sent: Counter[str] = field(default_factory=Counter)  # bytes of each file
    never_ends: bool = False  # the model's description
    commit: str = COMMIT
    lies: dict[str, str] = field(default_factory=dict)  # sha256 or blobId of all files that have one
    url: str = ""

    def siblings(self) -> list[dict[str, Any]]:
        return [
            {"rfilename": name, "size": self.size(name), "blobId": git_id(data), **self.large(name, "sha256")}
            | {key: value for key, value in self.lies.items() if key == "blobId"}
            for name, data in self.files.items()
        ]

    def size(self, name: str) -> int:
        pretends = name == "model.safetensors" and self.pretended_size
        return pretends or len(self.files[name])

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "oid": git_id(data), "size": len(data), **self.large(name, "oid")}
            for name, data in self.files.items()
        ]

    def large(self, name: str, key: str) -> dict[str, Any]:
        data = self.files[name]
        if not name.endswith(".safetensors"):
            return {}
        digest = self.lies.get(key, hashlib.sha256(data).hexdigest())
        return {"lfs": {key: digest, "size": len(data), "pointerSize": 134}}

    def etag(self, name: str) -> str:
        large = self.large(name, "sha256")
        return str(large["lfs"]["sha256"]) if large else git_id(self.files[name])

    def body(self, name: str) -> bytes:
        data = self.files[name]
        if self.flips and name == self.flipped:
            self.flips -= 1
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` on a free port while the context lasts."""

    class Handler(_Handler):
        state = hub

    server = _Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub's client, which has read its settings when it was imported, ask `endpoint`, without a
    token, and keep files in `cache`."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    changed = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": False,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that are killed or have read enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        path = urlsplit(self.path).path
        self.state.requests.append(f"{self.command} {path}")
        guarded = "/resolve/" in path or not self.state.guards_files_only
        if self.state.token and guarded and self.headers.get("authorization") != f"Bearer {self.state.token}":
            self.refuse(401, "GatedRepo", "Access to this model is restricted")
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            self.send(json.dumps(self.state.tree()).encode(), {}, head)
        elif path.startswith("/api/models/") and self.state.never_ends:
            self.send_without_end()
        elif path.rstrip("/") == f"/api/models/{REPO}" or path.startswith(f"/api/models/{REPO}/revision/"):
            info = {"id": REPO, "sha": self.state.commit, "siblings": self.state.siblings()}
            self.send(json.dumps(info).encode(), {}, head)
        elif path.startswith(f"/{REPO}/resolve/") and path.split("/", 5)[5] in self.state.files:
            self.send_file(path.split("/", 5)[5], head)
        elif path.startswith(f"/{REPO}/resolve/"):
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            self.refuse(404, "RepoNotFound", "Repository not found")

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_without_end(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(b" " * 2**16)
        self.close_connection = True

    def send_file(self, name: str, head: bool) -> None:
        data = self.state.files[name] if head else self.state.body(name)
        headers = {"ETag": f'"{self.state.etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name.endswith(".safetensors"):
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(data))}
        wanted = self.headers.get("range") if not self.state.ignores_ranges else None
        start, end = 0, len(data)
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            if not last:
                self.state.ranges.append(wanted)
        if not head:
            self.state.sent[name] += end - start
        self.send(data[start:end], headers, head, 206 if wanted else 200)

    def send(self, data: bytes, headers: dict[str, str], head: bool, status: int = 200) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not head:
            self.write(data)

    def write(self, data: bytes) -> None:
        cut, stall = self.state.cut_after, self.state.stall_after
        if cut is not None and len(data) > cut:
            self.state.cut_after = None
            self.wfile.write(data[:cut])
            self.close_connection = True
        elif stall is not None and len(data) > stall:
            self.state.stall_after = None
            self.wfile.write(data[:stall])
            self.connection.settimeout(30)
            self.close_connection = not self.rfile.read(1)  # until the client is gone
        else:
            self.wfile.write(data)
