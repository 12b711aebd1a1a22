"""The page at `/`, who gets it, what it may do, and the stream that keeps it up to date."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from pensieve.api.config import ServerConfig
from pensieve.api.status.status_api import MAX_WATCHERS, prefers_html
from pensieve.cache.blocks import BLOCK_SIZE

from ..conftest import Server, StartServer, wait_until
from ..reports.conftest import Scheduled, scheduled  # noqa: F401  (a fixture)
from ..reports.test_causes import FIRST

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

Event = tuple[str, dict[str, Any]]


@contextmanager
def watching(client: httpx.Client) -> Iterator[Iterator[Event]]:
    """Open the stream and yield its events."""
    with client.stream("GET", "/v1/status") as response:
        assert (response.status_code, response.headers["content-type"][:17]) == (200, "text/event-stream")
        yield _events(response.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html;q=0.5", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("text/html, application/json", True),
        ("text/htmlx", False),
    ],
)
def test_people_get_a_page_and_programs_a_name(server: Server, accept: str, is_page: bool) -> None:
    assert prefers_html(accept) == is_page
    response = server.http().get("/", headers={"accept": accept})
    assert (response.status_code, response.headers["vary"]) == (200, "accept")
    if is_page:
        assert response.text.startswith("<!doctype html>")
    else:
        assert response.json()["name"] == "pensieve"


def test_clients_that_ask_who_is_there_are_answered(server: Server) -> None:
    assert [server.http().head(path).status_code for path in ("/", "/api/hello")] == [200, 200]
    assert server.http().get("/api/hello", headers={"accept": BROWSER}).json()["name"] == "pensieve"


def test_the_page_may_run_its_own_script_and_nothing_else(server: Server) -> None:
    response = server.http().get("/", headers={"accept": BROWSER})
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for name in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy[name])
    assert (response.text.count("<script"), response.text.count("<style")) == (1, 1)


def test_the_page_sets_texts_of_others_as_text_alone_and_fetches_nothing_from_outside(server: Server) -> None:
    page = server.http().get("/", headers={"accept": BROWSER}).text
    parsing = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|\son\w+=|\sstyle="
    assert re.findall(parsing, page) == []
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]


def test_the_stream_begins_with_facts_and_goes_on_with_what_is_going_on(
    scheduled: Scheduled,  # noqa: F811  (the fixture)
) -> None:
    with watching(scheduled.http()) as events:
        name, facts = next(events)
        assert (name, facts["points"], facts["block_tokens"]) == ("hello", [], BLOCK_SIZE)
        name, empty = next(events)
        assert (name, empty["sessions"], empty["requests"], empty["ended"]) == ("tick", [], [], [])
        assert empty["stats"]["state"] == "ok"
        scheduled.ask("5f2c", messages=FIRST)
        shown = next(tick for _, tick in events if tick["requests"] and tick["requests"][0]["outcome"])
        assert [session["id"] for session in shown["sessions"]] == ["5f2c"]
        assert [row["cache"]["why"] for row in shown["requests"]] == ["cold"]
    with watching(scheduled.http()) as events:
        (point,) = next(events)[1]["points"]
        assert (point[4], point[5]) == (shown["requests"][0]["tokens"]["prompt"], len("Yes.") + 1)


def test_the_stream_needs_the_key_and_the_page_does_not(start_server: StartServer) -> None:
    client = start_server(config=ServerConfig(api_key="k")).http()
    assert client.get("/", headers={"accept": BROWSER}).status_code == 200
    assert client.get("/v1/status").status_code == 401
    client.headers["x-api-key"] = "k"
    with watching(client) as events:
        assert next(events)[0] == "hello"


def test_watchers_are_bounded_and_a_page_that_is_closed_makes_room(start_server: StartServer) -> None:
    server = start_server()
    client = server.http()

    def status() -> int:
        with client.stream("GET", "/v1/status") as response:
            assert response.headers.get("retry-after", "10") == "10"
            return response.status_code

    with ExitStack() as pages:
        streams = [pages.enter_context(watching(server.http())) for _ in range(MAX_WATCHERS)]
        assert [next(events)[0] for events in streams] == ["hello"] * MAX_WATCHERS
        assert status() == 529
    wait_until(lambda: status() == 200)


def test_the_stream_ends_where_the_server_stops(start_server: StartServer) -> None:
    server = start_server()
    with watching(server.http()) as events:
        next(events)
        server.scheduler.state = "stopping"
        assert [tick["stats"]["state"] for _, tick in events][-1] == "stopping"
