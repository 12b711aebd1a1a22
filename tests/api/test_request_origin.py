"""What headers and metadata say of a request's sender."""

import json

import httpx
import pytest

from pensieve.api.request_origin import MAX_TOOLS, origin_of
from pensieve.scheduler.origin import Origin

from .conftest import Server
from .test_errors import BODY

KEY = {"x-api-key": "k"}


def read(headers: dict[str, str], user_id: str = "") -> Origin:
    named = {name if name in KEY else f"x-claude-code-{name}": value for name, value in headers.items()}
    return origin_of(named, user_id, b"digest", "127.0.0.1")


def test_claude_codes_headers_name_session_agent_and_purpose() -> None:
    headers = {"session-id": "s", "agent-id": "a", "parent-agent-id": "p", "agent-type": "Explore"}
    hints = {
        "request-class": "subagent",
        "prompt-id": "7",
        "prev-tool-durations": "Agent=133, Read=5;Bash=1.5",
    }
    times = (("Agent", 0.133), ("Read", 0.005), ("Bash", 0.0015))
    expected = Origin(b"digest", "s", "a", "p", "subagent", "Explore", "7", times)
    assert read(headers | hints | {"context-compacted": "0"}) == expected


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ({"session-id": "x" * 201}, "session", ""),
        ({"agent-id": "x" * 999}, "agent", ""),
        ({"request-class": "king"}, "request_class", None),
        ({"compaction": "true"}, "request_class", "compaction"),
        ({"compaction": "false", "request-class": "main"}, "request_class", "main"),
        ({"context-compacted": "1"}, "is_compacted", True),
        ({"prev-tool-durations": "Read=-1,=5,Bash=nan,Grep=1e9,ok=2"}, "tool_times_s", (("ok", 0.002),)),
        ({"prev-tool-durations": "\u00e9=1," * 999}, "tool_times_s", (("\u00e9", 0.001),) * MAX_TOOLS),
    ],
)
def test_odd_values_are_ignored(headers: dict[str, str], name: str, value: object) -> None:
    assert getattr(read(headers), name) == value


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        (json.dumps({"device_id": "d", "session_id": "s"}), "s"),
        ("someone", "someone"),
        ("[1]", "[1]"),
        ("9" * 5000, ""),
        (json.dumps({"session_id": 5}), '{"session_id": 5}'),
        ("[" * 700, ""),
        ('{"session_id":"\\ud800x"}', "?x"),
    ],
)
def test_without_a_header_metadata_name_the_session(user_id: str, session: str) -> None:
    assert read({}, user_id).session == session
    assert read({"session-id": "other"}, user_id).session == "other"


def test_what_names_no_session_is_told_apart_by_its_key_or_its_host() -> None:
    assert read(KEY).owner == b"digest"
    assert read({}).owner == b"digest127.0.0.1"
    assert read({"session-id": "s"}).owner == b"digest"


def test_the_connections_of_one_host_are_one_session(server: Server) -> None:
    for _ in range(2):
        with httpx.Client(base_url=server.url, verify=False) as client:
            assert client.post("/v1/messages", json=BODY).status_code == 200
    first, second = server.scheduler.requests
    assert first.origin == second.origin
