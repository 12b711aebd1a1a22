"""The configurations of deploy/replicas, with the real proxies before servers that say who they are."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "deploy" / "replicas"
BODY = json.dumps({"text": "x" * 500_000}).encode()
"""As long as the request of a long conversation."""

LONG_BODY = json.dumps({"text": "x" * 9_000_000}).encode()
"""Longer than what a proxy holds in memory, and than what systems hold on the way."""


class Replica(ThreadingHTTPServer):
    """A server that answers with its port, in two parts; with 529 while it is full."""

    daemon_threads = True
    is_full = False
    is_gone = False  # also for connections that are open still

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.checks: list[tuple[str, str | None]] = []  # paths and hosts of GETs
        self.may_end = threading.Event()
        self.may_end.set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def name(self) -> str:
        return str(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a proxy may leave once it has the answer
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.checks.append((self.path, self.headers["host"]))
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        if self.server.is_gone:
            self.close_connection = True
            return
        if self.server.is_full:  # answered by the head alone; then the body is passed over
            self._answer(529, b'{"type": "error"}')
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.is_full:
            return
        assert body in (BODY, LONG_BODY)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._chunk(self.server.name.encode())
        self.server.may_end.wait(10)
        self._chunk(b" end")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Proxy:
    """A running proxy with the replicas behind it."""

    def __init__(self, kind: str, port: int, replicas: list[Replica]) -> None:
        self.kind = kind
        self.url = f"http://127.0.0.1:{port}"
        self.replicas = {replica.name: replica for replica in replicas}

    def open(self, body: bytes = BODY, /, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.url}/v1/messages", body, named, method="POST")
        return urllib.request.urlopen(request, timeout=10)

    def server_of(self, body: bytes = BODY, /, **headers: str) -> str:
        with self.open(body, **headers) as response:
            return str(response.read().decode().removesuffix(" end"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def configure(kind: str, folder: Path, port: int, replicas: list[Replica]) -> list[str]:
    """Write the configuration with these addresses; return the command that runs it."""
    text = (FOLDER / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]).read_text(encoding="utf-8")
    for old, replica in zip(("127.0.0.1:7777", "127.0.0.1:7778"), replicas, strict=True):
        assert old in text
        text = text.replace(old, f"127.0.0.1:{replica.name}")
    path = folder / "proxy.conf"
    if kind == "haproxy":
        text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
        path.write_text(text, encoding="utf-8")
        subprocess.run(["haproxy", "-c", "-f", str(path)], check=True, capture_output=True)
        return ["haproxy", "-db", "-f", str(path)]
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi"))
    paths += "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers may not use the folder
    head = f"{user} pid {folder}/pid; daemon off; error_log {folder}/log; events {{}}\n"
    path.write_text(f"{head}http {{ access_log off; {paths} {text} }}", encoding="utf-8")
    return ["nginx", "-e", f"{folder}/log", "-c", str(path)]


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Proxy]:
    with ExitStack() as stack:
        replicas = [Replica(), Replica()]
        for replica in replicas:
            stack.callback(replica.server_close)
            stack.callback(replica.shutdown)
        port = free_port()
        process = subprocess.Popen(configure(kind, folder, port, replicas), stderr=subprocess.DEVNULL)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        proxy = Proxy(kind, port, replicas)
        for _ in range(500):
            try:
                proxy.server_of()
                break
            except OSError:
                time.sleep(0.02)
        yield proxy


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with running(request.param, tmp_path_factory.mktemp("r")) as found:
        yield found


def test_sessions_stay_at_their_servers_and_use_both(proxy: Proxy) -> None:
    for kind in ("x_claude_code_session_id", "x_api_key", "authorization"):
        names = [f"name-{number}" for number in range(12)]
        first = [proxy.server_of(**{kind: name}) for name in names]
        assert [proxy.server_of(**{kind: name}) for name in names] == first, kind
        assert set(first) == set(proxy.replicas), kind
    assert len({proxy.server_of() for _ in range(6)}) == 1  # by the address


def test_the_session_counts_more_than_the_key(proxy: Proxy) -> None:
    names = [f"name-{number}" for number in range(6)]
    alone = [proxy.server_of(x_claude_code_session_id=name) for name in names]
    keyed = [proxy.server_of(x_claude_code_session_id=name, x_api_key=f"key-{name}") for name in names]
    assert keyed == alone


def test_a_full_queue_leaves_the_request_to_the_next_server(proxy: Proxy) -> None:
    own = proxy.server_of(x_claude_code_session_id="one")
    with ExitStack() as stack:
        full = proxy.replicas[own]
        full.is_full = True
        stack.callback(setattr, full, "is_full", False)
        bodies = [BODY] * 4 + [LONG_BODY] * (proxy.kind == "nginx")  # HAProxy gives no long one to another
        others = {proxy.server_of(body, x_claude_code_session_id="one") for body in bodies}
        assert others == set(proxy.replicas) - {own}
        for replica in proxy.replicas.values():
            replica.is_full = True
            stack.callback(setattr, replica, "is_full", False)
        for body in (BODY, LONG_BODY):
            with pytest.raises(urllib.error.HTTPError) as refused:
                proxy.server_of(body, x_claude_code_session_id="one")
            assert refused.value.code == 529
            assert b'"error"' in refused.value.read()
            assert refused.value.headers["x-pensieve-full"] is None
    assert proxy.server_of(x_claude_code_session_id="one") == own


def test_health_is_asked_by_a_name_that_a_server_on_loopback_takes(proxy: Proxy) -> None:
    """Without a host each check is refused, and soon all servers count as down."""
    if proxy.kind == "nginx":
        pytest.skip("it asks for no health")
    for replica in proxy.replicas.values():
        for _ in range(500):
            if replica.checks:
                break
            time.sleep(0.02)
        assert set(replica.checks) == {("/health", "localhost")}


def test_a_stream_is_passed_on_as_it_comes(proxy: Proxy) -> None:
    for replica in proxy.replicas.values():
        replica.may_end.clear()
    try:
        with proxy.open() as response:
            name = response.read1(100).decode()
            proxy.replicas[name].may_end.set()
            assert response.read() == b" end"
    finally:
        for replica in proxy.replicas.values():
            replica.may_end.set()


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_sessions_of_a_server_that_has_gone_go_on_at_the_other(kind: str, tmp_path: Path) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with running(kind, tmp_path) as proxy:
        names = [f"name-{number}" for number in range(8)]
        before = {name: proxy.server_of(x_claude_code_session_id=name) for name in names}
        gone = proxy.replicas[before[names[0]]]
        gone.is_gone = True
        gone.shutdown()
        gone.server_close()
        after = {proxy.server_of(x_claude_code_session_id=name) for name in names}
        assert after == set(proxy.replicas) - {gone.name}
        for replica in proxy.replicas.values():
            replica.is_full = True
        for name in names:
            with pytest.raises(urllib.error.HTTPError) as refused:
                proxy.server_of(x_claude_code_session_id=name)
            assert (refused.value.code, refused.value.read()) == (529, b'{"type": "error"}')


def test_the_manifests_fit_together() -> None:
    yaml = pytest.importorskip("yaml")  # comes with the hub's client
    text = (FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")
    parts = {(part["kind"], part["metadata"]["name"]): part for part in yaml.safe_load_all(text)}
    assert len(parts) == 4
    servers = parts["StatefulSet", "pensieve"]["spec"]
    assert parts["Service", servers["serviceName"]]["spec"]["clusterIP"] == "None"
    for kind, name in (("StatefulSet", "pensieve"), ("Deployment", "pensieve-haproxy")):
        spec = parts[kind, name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        [container] = spec["template"]["spec"]["containers"]
        volumes = [volume["name"] for volume in spec["template"]["spec"].get("volumes", [])]
        volumes += [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    [container] = servers["template"]["spec"]["containers"]
    assert (container["command"], container["args"][0]) == (["pensieve"], "serve")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    sessions = parts["Service", "pensieve-sessions"]["spec"]["selector"]
    assert sessions == parts["Deployment", "pensieve-haproxy"]["spec"]["selector"]["matchLabels"]
