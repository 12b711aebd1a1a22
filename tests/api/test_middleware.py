"""Who may pass: hosts, origins and keys, on every route."""

from typing import Any

import pytest
from fastapi.routing import APIRoute

from pensieve.api.app import create_app
from pensieve.api.config import ServerConfig
from pensieve.api.middleware import PUBLIC_PATHS

from ..fakes import ByteTokenizer, FakeModel, ScriptedScheduler
from .conftest import Server, StartServer, wait_until
from .test_errors import BODY, check

KEY = "schlüssel-1"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:7777", "localhost:1", "LOCALHOST", "[::1]:7777", "[::1]"]
)
def test_names_of_this_machine_are_served(server: Server, host: str) -> None:
    assert server.http().get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:7777", "127.0.0.1.evil.example", "[::2]", "localhost.evil", "127.0.0.1:80:evil", ""],
)
def test_other_names_are_refused(server: Server, host: str) -> None:
    check(server.http().get("/v1/models", headers={"host": host}), 403, "permission_error")


def test_a_server_for_other_machines_takes_any_name(start_server: StartServer) -> None:
    server = start_server(config=ServerConfig(host="0.0.0.0", api_key="k"))
    headers = {"host": "studio.local:7777", "x-api-key": "k"}
    assert server.http().get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://evil.example:80"]
)
def test_web_pages_of_others_are_refused(server: Server, origin: str) -> None:
    response = server.http().post("/v1/messages", json=BODY, headers={"origin": origin})
    check(response, 403, "permission_error")
    assert not server.scheduler.requests


def test_a_refusal_names_the_flag_that_lifts_it(server: Server) -> None:
    client = server.http()
    by_host = client.get("/v1/models", headers={"host": "host.docker.internal:7777"}).json()
    assert "--allow-host host.docker.internal" in by_host["error"]["message"]
    by_origin = client.get("/v1/models", headers={"origin": "app://obsidian.md"}).json()
    assert "--allow-origin app://obsidian.md" in by_origin["error"]["message"]


def test_allowed_names_are_served_and_no_others(start_server: StartServer) -> None:
    client = start_server(config=ServerConfig(allow_host=("host.docker.internal", "*.Local"))).http()
    for host in ("host.docker.internal:7777", "studio.local", "a.studio.local:1", "localhost"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
    for host in (
        "local",
        "docker.internal",
        "x.host.docker.internal",
        "studio.local.evil",
        "a." * 125 + "local",
    ):
        assert client.get("/v1/models", headers={"host": host}).status_code == 403, host


ORIGINS = ("http://localhost:3000", "vscode-webview://abc", "tauri://localhost")


def test_pages_of_allowed_origins_may_ask_and_read(start_server: StartServer) -> None:
    client = start_server(config=ServerConfig(api_key=KEY, allow_origin=ORIGINS)).http()
    for origin in ORIGINS:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
        preflight = client.options("/v1/messages", headers={"origin": origin} | asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-headers"] == "x-api-key"
        assert "DELETE" in preflight.headers["access-control-allow-methods"]
        refused = client.post("/v1/messages", json=BODY, headers={"origin": origin})
        assert refused.status_code == 401, "an origin is no key"
        assert refused.headers["access-control-allow-origin"] == origin, "and the page may read why"


def test_other_origins_get_no_header(start_server: StartServer) -> None:
    client = start_server(config=ServerConfig(allow_origin=ORIGINS)).http()
    for headers in ({"origin": "http://localhost:3001"}, {}):
        response = client.options("/v1/messages", headers=headers | {"access-control-request-method": "POST"})
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "flags",
    [{"allow_host": ("http://a",)}, {"allow_host": ("a:80",)}, {"allow_origin": ("localhost:3000",)}],
)
def test_a_name_of_the_wrong_form_is_refused_at_the_start(flags: Any) -> None:
    with pytest.raises(ValueError, match="--allow-"):
        ServerConfig(**flags)


def test_the_servers_own_origin_passes(server: Server) -> None:
    assert server.http().get("/health", headers={"origin": server.url}).status_code == 200


def test_without_a_configured_key_any_key_or_none_passes(server: Server) -> None:
    client = server.http()
    for headers in ({}, {"x-api-key": "any"}, {"authorization": "Bearer any"}):
        assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.fixture
def locked(start_server: StartServer) -> Server:
    return start_server(config=ServerConfig(api_key=KEY))


@pytest.mark.parametrize(
    "headers",
    [
        {b"x-api-key": KEY.encode()},
        {b"authorization": b"Bearer " + KEY.encode()},
        {b"authorization": b"bearer  " + KEY.encode()},
        {b"x-api-key": b"wrong", b"authorization": b"Bearer " + KEY.encode()},
    ],
)
def test_the_right_key_passes(locked: Server, headers: dict[bytes, bytes]) -> None:
    assert locked.http().get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-api-key": b""},
        {b"x-api-key": b"wrong"},
        {b"x-api-key": "schlüssel-2".encode()},
        {b"authorization": KEY.encode()},
        {b"authorization": b"Basic " + KEY.encode()},
        {b"authorization": b"Bearer"},
    ],
)
def test_any_other_key_is_refused(locked: Server, headers: dict[bytes, bytes]) -> None:
    check(locked.http().get("/v1/models", headers=headers), 401, "authentication_error")


def test_every_route_but_the_public_ones_needs_the_key(locked: Server) -> None:
    app = create_app(ServerConfig(), FakeModel(), ByteTokenizer(), ScriptedScheduler())
    routes = [route for route in walk(app.routes) if isinstance(route, APIRoute)]
    assert len(routes) >= 7
    for route in routes:
        for method in route.methods or ():
            status = locked.http().request(method, route.path).status_code
            assert (status == 401) != (route.path in PUBLIC_PATHS), route.path


def walk(routes: object) -> list[object]:
    """List routes, those of included routers too."""
    found: list[object] = []
    for route in routes if isinstance(routes, list) else []:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        found += walk(inner) if inner else [route]
    return found


def test_each_response_has_an_id_of_its_own(server: Server) -> None:
    client = server.http()
    ids = {client.get("/health").headers["request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_the_log_holds_paths_and_no_queries(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A client may send its key in a query."""
    caplog.set_level("DEBUG", "pensieve.api.middleware")
    server.http().get("/v1/models%0Ax?key=secret")
    wait_until(lambda: "status 404" in caplog.text)
    assert "GET /v1/models%0Ax is answered" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_no_answer_and_no_line_of_the_log_has_a_key(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    caplog.set_level("DEBUG", "pensieve")
    client = start_server(config=ServerConfig(api_key="secret-of-the-server")).http()
    told = ""
    for key in ("secret-of-the-server", "secret-of-a-client"):
        headers = {header: f"Bearer {key}" if header == "authorization" else key}
        for path in ("/v1/models", "/nowhere", "/metrics", "/health"):
            told += client.get(path, headers=headers).text
        told += client.post("/v1/messages", json=BODY, headers=headers).text
    wait_until(lambda: caplog.text.count("POST /v1/messages is answered") == 2)
    assert "authentication_error" in told
    assert "secret-of" not in told + caplog.text
