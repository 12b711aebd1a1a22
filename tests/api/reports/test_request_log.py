"""Who may read which reports, what stands in them, and how many are kept."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.config import ServerConfig
from pensieve.api.reports.prompt_outline import PromptOutline
from pensieve.api.reports.recent_prompts import PromptTrace, Sender, pack
from pensieve.api.reports.request_log import RequestLog
from pensieve.api.reports.request_report import CACHE_HEADER, Ending, RequestFacts, RequestReport
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.sequence import Request

from ...budget import trials
from ...fakes import Script, ScriptedTokenStream
from ..conftest import Server, StartServer
from .conftest import Scheduled, read_header, serving
from .test_causes import FIRST, HEAD, LONG, SECOND, turn


def report(number: int, key: bytes = b"", num_tokens: int = 40) -> RequestReport:
    facts = RequestFacts(f"req_{number}", "/v1/messages", Sender(key), 0.0, 0.001, 0.002)
    return RequestReport(facts, PromptTrace(PromptOutline(), pack([number] * num_tokens)))


def stream(num_tokens: int = 40) -> ScriptedTokenStream:
    return ScriptedTokenStream(Request([1] * num_tokens, SamplingParams(), 9), Script())


def test_the_latest_reports_are_kept_and_read_with_their_key_alone() -> None:
    log = RequestLog(max_reports=6)
    for number in range(10):
        log.begin(report(number, b"one" if number % 2 else b"two"), stream())
    assert [found.facts.request_id for found in log.latest(b"one", 100)] == ["req_9", "req_7", "req_5"]
    assert [found.facts.request_id for found in log.latest(b"two", 2)] == ["req_8", "req_6"]
    assert log.find(b"one", "req_9") is not None
    assert log.find(b"two", "req_9") is log.find(b"", "req_9") is log.find(b"one", "req_1") is None


def test_a_prompt_of_another_key_is_never_compared_with() -> None:
    log = RequestLog()
    for number, key in enumerate((b"one", b"two", b"one")):
        own = report(number, key)
        own._prompt.tokens = pack([7] * 60)  # type: ignore[union-attr]
        log.begin(own, stream(60))
        own.end(Ending("stop", 1, [], []))
    verdicts = [found.verdict for found in reversed(log.latest(b"one", 9))]
    assert [(verdict.cause, verdict.place) for verdict in verdicts] == [("cold", 0), ("evicted", 0)]
    (other,) = log.latest(b"two", 9)
    assert (other.verdict.cause, other.verdict.place) == ("cold", 0)


def test_an_ended_report_holds_no_tokens_of_its_prompt() -> None:
    log, own = RequestLog(), report(1, num_tokens=60_000)
    log.begin(own, stream(60_000))
    own.end(Ending("stop", 2, [5, 6], []))
    own.end(Ending("abort", 9, [], []))
    assert not [value for value in vars(own).values() if isinstance(value, bytes | list)]
    assert [own._prompt, own._token_stream, own._recent] == [None, None, None]
    assert (own.outcome, own.progress.num_generated) == ("stop", 2)


@given(num_tokens=st.integers(1, 99), data=st.data(), admitted=st.booleans())
@settings(max_examples=trials(20, 200))
def test_what_was_found_is_the_sum_of_where_it_came_from(
    num_tokens: int, data: st.DataObject, admitted: bool
) -> None:
    at_arrival = data.draw(st.integers(0, num_tokens))
    found = data.draw(st.integers(0, num_tokens))
    log, own = RequestLog(), report(1, num_tokens=num_tokens)
    from_disk = data.draw(st.integers(0, num_tokens))
    script = Script(num_cached=found, num_at_arrival=at_arrival, num_from_disk=from_disk)
    token_stream = ScriptedTokenStream(Request([1] * num_tokens, SamplingParams(), 9), script)
    token_stream.admitted_s = 1.0 if admitted else None
    log.begin(own, token_stream)
    for _ in range(2):
        first, *fields = own.headers[CACHE_HEADER].split("; ")
        assert first == f"{found}/{num_tokens}"
        sources = dict(field.split("=") for field in fields[:3])
        assert sum(map(int, sources.values())) == found
        assert list(sources) == ["memory", "disk", "twin"]
        own.end(Ending("stop", 1, [], []))


@pytest.mark.parametrize("at_arrival", [0, 96])
def test_what_is_read_from_disk_after_all_was_neither_evicted_nor_cold(at_arrival: int) -> None:
    """A stream's headers cannot know of it yet: they go out before the disk is read."""
    log, first, again = RequestLog(), report(1, num_tokens=200), report(1, num_tokens=200)
    log.begin(first, stream(200))
    first.end(Ending("stop", 1, [], []))
    found = stream(200)
    found.num_cached_tokens = found.num_cached_at_arrival = found.num_matched_at_arrival = at_arrival
    log.begin(again, found)
    assert (again.verdict.cause, again.verdict.place) == ("evicted", at_arrival)
    found.num_cached_tokens, found.num_disk_tokens, found.admitted_s = 192, 192 - at_arrival, 1.0
    assert again.headers[CACHE_HEADER] == (
        f"192/200; memory={at_arrival}; disk={192 - at_arrival}; twin=0; why=none"
    )


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses"])
def test_the_header_has_the_numbers_of_the_usage(server: Server, path: str) -> None:
    server.scheduler.play(server.script("Hi there", num_cached=10))
    body = {"model": "default", "max_tokens": 99, "messages": FIRST, "input": LONG}
    response = server.http().post(path, json=body)
    usage, found = response.json()["usage"], read_header(response)
    read = usage.get("cache_read_input_tokens")
    if read is None:
        details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
        read, total = details["cached_tokens"], usage.get("prompt_tokens") or usage["input_tokens"]
    else:
        total = usage["input_tokens"] + read
    assert (found["found"], found["prompt"]) == (str(read), str(total)) == ("10", str(total))


def test_a_streams_header_has_the_numbers_of_its_first_usage(server: Server) -> None:
    server.scheduler.play(server.script("Hi there", num_cached=10))
    body = {"model": "default", "max_tokens": 9, "messages": FIRST, "stream": True}
    response = server.http().post("/v1/messages", json=body)
    start = json.loads(response.text.split("\n")[1].removeprefix("data: "))["message"]["usage"]
    found = read_header(response)
    assert (int(found["found"]), int(found["prompt"])) == (10, 10 + start["input_tokens"])


def test_a_report_tells_times_tokens_and_the_difference(scheduled: Scheduled) -> None:
    http = scheduled.http()
    scheduled.ask(messages=SECOND, **HEAD)
    changed = [*FIRST, turn("assistant", "Nobody knows."), turn("user", "Go on.")]
    request_id = scheduled.ask(messages=changed, **HEAD).headers["request-id"]
    found: dict[str, Any] = http.get(f"/v1/requests/{request_id}").json()
    assert (found["id"], found["session"], found["outcome"]) == (request_id, "one", "stop")
    assert found["tokens"]["generated"] == len("Yes.") + 1
    times = found["times_ms"]
    assert list(times) == ["render", "tokenise", "queue", "restore", "prefill", "decode", "total"]
    assert times["restore"] is None
    assert all(value >= 0 for name, value in times.items() if name != "restore")
    assert (found["cache"]["why"], found["cache"]["in"]) == ("history-rewritten", "messages[1]")
    assert found["diff"]["before"].endswith("<|im_start|>assistant\n")
    assert found["diff"]["old"].startswith("Yes.<|im_end|>")
    assert found["diff"]["new"].startswith("Nobody knows.")
    (latest,) = http.get("/v1/requests?limit=1").json()["data"]
    assert latest == {name: value for name, value in found.items() if name != "diff"}
    assert http.get("/v1/requests?limit=0").json()["error"]["type"] == "invalid_request_error"
    missing = http.get("/v1/requests/req_0")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


def test_a_request_that_runs_has_a_report(start_server: StartServer) -> None:
    server = start_server()
    server.scheduler.play(Script([[65]], hangs=True))
    body = {"model": "default", "max_tokens": 9, "messages": FIRST, "stream": True}
    with server.http().stream("POST", "/v1/messages", json=body) as response:
        found = server.http().get(f"/v1/requests/{response.headers['request-id']}").json()
    assert (found["outcome"], found["tokens"]["generated"]) == (None, None)
    assert found["tokens"]["prompt"] == len(server.scheduler.requests[0].prompt)


def test_a_report_is_not_read_without_the_servers_key() -> None:
    with serving(Scheduled(config=ServerConfig(api_key="right"))) as server:
        http = server.http(**{"x-api-key": "right"})
        body = {"model": "default", "max_tokens": 9, "messages": FIRST}
        request_id = http.post("/v1/messages", json=body).headers["request-id"]
        bearer = {"authorization": "Bearer right", "x-api-key": ""}
        assert http.get(f"/v1/requests/{request_id}", headers=bearer).status_code == 200
        assert server.http().get(f"/v1/requests/{request_id}").status_code == 401


def test_no_text_of_a_request_reaches_the_log(scheduled: Scheduled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pensieve"):
        for messages in (SECOND, [turn("user", "Something else"), *SECOND[1:]]):
            request_id = scheduled.ask(messages=messages).headers["request-id"]
            assert scheduled.http().get(f"/v1/requests/{request_id}").status_code == 200
    assert not {word for word in ("Please", "Something", "words") if word in caplog.text}
