"""Keys of a file: who is let in, with which limits, and that none learns anything of another's requests."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anthropic
import httpx
import openai
import pytest

from pensieve.api.api_keys import ApiKeys
from pensieve.api.config import ServerConfig
from pensieve.api.errors import RateLimited
from pensieve.api.keys_file import KeysFileError
from pensieve.scheduler.exceptions import QueueFull

from ..fakes import Script
from .conftest import Server, StartServer, wait_until
from .reports.conftest import Scheduled, read_header, serving
from .reports.test_causes import FIRST
from .test_errors import BODY, check

ALICE, BOB, CAROL, DAVE = (f"sk-{name}-secret" for name in ("alice", "bob", "carol", "dave"))
LINES = f"alice {ALICE} concurrent=1\nbob {BOB} share=2\ncarol {CAROL} shared\ndave {DAVE} shared\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(LINES)
    return path


@pytest.fixture
def scheduled(file: Path) -> Iterator[Scheduled]:
    """A server with the real scheduler and several keys."""
    with serving(Scheduled(config=ServerConfig(api_keys_file=str(file), api_key="own"))) as server:
        yield server


def ask(server: Scheduled, key: str, session: str = "one") -> httpx.Response:
    body = {"model": "default", "max_tokens": 99, "messages": FIRST}
    headers = {"x-api-key": key, "x-claude-code-session-id": session}
    return server.http(**headers).post("/v1/messages", json=body)


def found(server: Scheduled, key: str) -> tuple[str, int]:
    header = read_header(ask(server, key))
    return header["why"], int(header["found"])


def test_keys_share_what_is_cached_only_where_the_file_says_so(scheduled: Scheduled) -> None:
    assert [found(scheduled, key) for key in (ALICE, BOB, CAROL)] == [("cold", 0)] * 3
    for key in (ALICE, BOB, CAROL, DAVE, "own"):
        assert found(scheduled, key)[1] > 0, key


def test_a_key_sees_its_own_requests_and_sessions_alone(scheduled: Scheduled) -> None:
    requests = {key: ask(scheduled, key).headers["request-id"] for key in (ALICE, CAROL, DAVE, "own")}
    for key in requests:
        client = scheduled.http(**{"x-api-key": key})
        sessions = client.get("/v1/sessions").json()["sessions"]
        assert [one["key"] for one in sessions] == [key.split("-")[1] if "-" in key else "default"]
        assert [one["id"] for one in client.get("/v1/requests").json()["data"]] == [requests[key]]
        others = [name for name in requests.values() if name != requests[key]]
        assert {client.get(f"/v1/requests/{name}").status_code for name in others} == {404}
    assert scheduled.http(**{"x-api-key": BOB}).delete("/v1/sessions/one").status_code == 404
    assert scheduled.http(**{"x-api-key": ALICE}).delete("/v1/sessions/one").json()["freed_tokens"] > 0


def test_a_key_is_of_the_same_owner_however_it_is_sent(scheduled: Scheduled) -> None:
    ask(scheduled, ALICE)
    client = scheduled.http(authorization=f"Bearer {ALICE}")
    assert len(client.get("/v1/sessions").json()["sessions"]) == 1


def test_a_response_is_kept_for_its_key_alone(scheduled: Scheduled) -> None:
    body = {"model": "default", "input": "Hi", "max_output_tokens": 20}
    kept = scheduled.http(**{"x-api-key": CAROL}).post("/v1/responses", json=body).json()["id"]
    assert scheduled.http(**{"x-api-key": CAROL}).get(f"/v1/responses/{kept}").status_code == 200
    other = scheduled.http(**{"x-api-key": DAVE})
    assert other.get(f"/v1/responses/{kept}").status_code == 404
    assert other.delete(f"/v1/responses/{kept}").status_code == 404
    assert other.post("/v1/responses", json=body | {"previous_response_id": kept}).status_code == 400
    assert scheduled.http(**{"x-api-key": CAROL}).get(f"/v1/responses/{kept}").status_code == 200


def test_tokens_are_counted_by_the_keys_names(scheduled: Scheduled) -> None:
    for key in (ALICE, ALICE, BOB):
        ask(scheduled, key)
    text = scheduled.http(**{"x-api-key": BOB}).get("/metrics").text
    assert 'pensieve_key_requests_total{key="alice"} 2.0' in text
    assert f'pensieve_key_tokens_total{{key="bob",kind="generated"}} {float(len("Yes.") + 1)}' in text
    assert ALICE not in text


@pytest.fixture
def limited(file: Path, start_server: StartServer) -> Server:
    """A server with several keys, whose answers last until their clients go."""
    server = start_server(config=ServerConfig(api_keys_file=str(file)))
    server.scheduler.play(Script([[65]], hangs=True))
    return server


def test_a_request_too_many_is_refused_in_both_forms_and_others_are_served(limited: Server) -> None:
    with limited.http().stream(
        "POST", "/v1/messages", json=BODY | {"stream": True}, headers={"x-api-key": ALICE}
    ):
        with pytest.raises(anthropic.RateLimitError) as refused:
            limited.sdk(api_key=ALICE).messages.create(**BODY)
        assert "alice has 1 requests under way" in check(refused.value.response, 429, "rate_limit_error")
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        with pytest.raises(openai.RateLimitError) as refused_too:
            limited.openai(api_key=ALICE).chat.completions.create(model="default", messages=[])
        assert refused_too.value.code == "rate_limit_exceeded"
        assert limited.http().get("/v1/models", headers={"x-api-key": ALICE}).status_code == 200
        limited.scheduler.play(Script([[65]]))
        assert limited.http().post("/v1/messages", json=BODY, headers={"x-api-key": BOB}).status_code == 200
    client = limited.http()
    wait_until(lambda: client.post("/v1/messages", json=BODY, headers={"x-api-key": ALICE}).is_success)


def test_a_response_in_the_background_counts_until_it_has_ended(limited: Server) -> None:
    body = {"model": "default", "input": "Hi", "background": True}
    client = limited.http()
    client.headers["x-api-key"] = ALICE
    kept = client.post("/v1/responses", json=body).json()["id"]
    assert client.post("/v1/messages", json=BODY).status_code == 429
    assert client.post(f"/v1/responses/{kept}/cancel", json={}).status_code == 200
    limited.scheduler.play(Script([[65]]))
    assert client.post("/v1/messages", json=BODY).status_code == 200


def test_a_response_in_the_background_that_cannot_start_counts_no_longer(
    limited: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, headers = limited.http(), {"x-api-key": ALICE}
    body = {"model": "default", "input": "Hi"}
    with monkeypatch.context() as patch:
        patch.setattr(limited.scheduler, "submit", Mock(side_effect=QueueFull(7)))
        refused = client.post("/v1/responses", json=body | {"background": True}, headers=headers)
        assert refused.is_error
    limited.scheduler.play(Script([[65]]))
    assert client.post("/v1/responses", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["x", "wrong-key", ALICE[:-1], f"{ALICE}x"])
def test_a_wrong_key_is_refused_in_both_forms(limited: Server, key: str) -> None:
    client = limited.http()
    client.headers["authorization"] = f"Bearer {key}"
    check(client.post("/v1/messages", json=BODY), 401, "authentication_error")
    assert client.post("/v1/chat/completions", json={}).json()["error"]["code"] == "invalid_api_key"
    assert client.get("/v1/sessions").status_code == 401


def find(keys: ApiKeys, key: str) -> Any:
    return keys.find([key.encode()])


def test_a_new_file_counts_from_its_reading_and_a_wrong_one_not_at_all(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_out: set[str] = set()
    keys = ApiKeys(ServerConfig(api_keys_file=str(file)), left_out.update)
    old = find(keys, ALICE)
    with old.places.hold("alice"):
        file.write_text(f"alice sk-alice-new concurrent=1\nbob {BOB} share=3\n")
        keys.reload()
        with pytest.raises(Exception, match="invalid API key"):
            find(keys, ALICE)
        new = find(keys, "sk-alice-new")
        assert (new.account, new.digest, new.places) == (old.account, old.digest, old.places)
        with pytest.raises(RateLimited), new.places.hold("alice"):
            pass
    assert find(keys, BOB).account.share == 3
    assert left_out == {"carol", "dave"}
    caplog.clear()
    for wrong in ("alice", "", "alice short"):
        file.write_text(wrong)
        with caplog.at_level(logging.ERROR):
            keys.reload()
        assert find(keys, "sk-alice-new") is new
    assert len(caplog.messages) == 3
    assert caplog.messages[0].startswith("the API keys stay as they are: --api-keys-file")
    file.write_text(LINES)
    with pytest.raises(KeysFileError, match="the file must not have it"):
        ApiKeys(ServerConfig(api_keys_file=str(file), api_key=BOB))


def test_others_who_may_read_the_file_are_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    ApiKeys(ServerConfig(api_keys_file=str(file)))
    assert not caplog.messages
    file.chmod(0o644)
    ApiKeys(ServerConfig(api_keys_file=str(file)))
    assert "chmod 600" in caplog.messages[0]
