"""Each cause that a response may name for what was not cached, brought about in the real server."""

import threading
from typing import Any

import httpx
import pytest

from ...fakes import CHATML_TEMPLATE, ByteTokenizer
from ..conftest import wait_until
from ..exchange import BASH
from .conftest import Scheduled, read_header, serving

SYSTEM = "You are a careful assistant. " * 10
LONG = "Please look at this: " + "all the words of a file. " * 20


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


FIRST = [turn("user", LONG)]
SECOND = [*FIRST, turn("assistant", "Yes."), turn("user", "And now?" * 20)]
THIRD = [*SECOND, turn("assistant", "Yes."), turn("user", "Thanks." * 20)]
HEAD: dict[str, Any] = {"system": SYSTEM, "tools": [BASH]}


def test_a_conversation_that_goes_on_finds_all_that_it_had(scheduled: Scheduled) -> None:
    assert scheduled.verdict(messages=FIRST, **HEAD) == ("cold", None)
    for messages in (SECOND, THIRD):
        assert scheduled.verdict(messages=messages, **HEAD) == ("none", None)


def test_a_new_conversation_is_cold_from_its_first_message_on(scheduled: Scheduled) -> None:
    scheduled.ask(messages=FIRST, **HEAD)
    response = scheduled.ask("two", messages=[turn("user", "Other words" * 20)], **HEAD)
    found = read_header(response)
    assert (found["why"], found["in"]) == ("cold", "messages[0]")
    shared = int(found["at"])
    assert shared - shared % 32 == int(found["found"]) > 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tools": [BASH, BASH | {"name": "Other"}]}, ("tools-changed", "tools")),
        ({"tools": [BASH | {"description": "Runs it."}]}, ("tools-changed", "tools")),
        ({"system": SYSTEM + "Be brief."}, ("system-changed", "system")),
        (
            {"messages": [turn("user", LONG + "!"), *THIRD[1:]]},
            ("history-rewritten", "messages[0]"),
        ),
        (
            {"messages": [*SECOND[:1], turn("assistant", "No."), *THIRD[2:]]},
            ("history-rewritten", "messages[1]"),
        ),
        (
            {"messages": [*SECOND, turn("assistant", "Yes, I am sure."), THIRD[-1]]},
            ("history-rewritten", "messages[3]"),
        ),
        ({"messages": [*SECOND[:2], turn("user", "Or else?" * 20)]}, ("history-rewritten", "messages[2]")),
    ],
)
def test_what_the_client_changes_is_named(
    scheduled: Scheduled, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    for messages in (FIRST, SECOND):
        scheduled.ask(messages=messages, **HEAD)
    assert scheduled.verdict(**{"messages": THIRD} | HEAD | changes) == expected


def test_a_template_that_drops_thoughts_is_the_cause_of_what_is_lost() -> None:
    template = CHATML_TEMPLATE.replace("{%- if message.reasoning_content %}", "{%- if false %}")
    with serving(Scheduled(ByteTokenizer(template, thinks=True))) as server:
        server.engine.replies = [f"<think>{'Hm. ' * 20}</think>Yes."]
        thinking = {"type": "enabled", "budget_tokens": 1024}
        reply = server.ask(messages=FIRST, max_tokens=2000, thinking=thinking).json()["content"]
        assert [block["type"] for block in reply] == ["thinking", "text"]
        following = [*FIRST, {"role": "assistant", "content": reply}, turn("user", "Go on.")]
        response = server.ask(messages=following, max_tokens=2000, thinking=thinking)
        found = read_header(response)
        assert (found["why"], found["in"]) == ("template", "messages[1]")


def test_what_had_to_make_room_was_evicted() -> None:
    with serving(Scheduled(num_blocks=60)) as server:
        server.ask(messages=FIRST)
        server.ask("two", messages=[turn("user", "Other words. " * 110)])
        response = server.ask(messages=SECOND)
        found = read_header(response)
        assert found["why"] == "evicted"
        assert int(found["at"]) < 500
        # Computed once more, it is found again.
        assert server.verdict(messages=THIRD) == ("none", None)


def test_a_prompt_that_another_request_is_computing_is_awaited(scheduled: Scheduled) -> None:
    scheduled.engine.gate.clear()
    responses: list[httpx.Response] = []
    first = threading.Thread(target=lambda: responses.append(scheduled.ask(messages=FIRST, **HEAD)))
    first.start()
    wait_until(lambda: scheduled.loop.stats().num_running == 1)
    body = {"model": "default", "max_tokens": 9, "messages": FIRST, "stream": True} | HEAD
    with scheduled.http().stream("POST", "/v1/messages", json=body) as response:
        early = read_header(response)
        scheduled.engine.gate.set()
        response.read()
    first.join()
    assert int(early["awaited"]) > 0
    assert (early["found"], early["twin"], early["why"]) == ("0", "0", "cold")
    late = scheduled.http().get(f"/v1/requests/{response.headers['request-id']}").json()["tokens"]
    assert late["twin"] == late["found"] == int(early["awaited"])
    assert late["memory"] == late["disk"] == 0


def test_all_apis_say_what_was_found(scheduled: Scheduled) -> None:
    chat = {"model": "default", "max_tokens": 9, "messages": FIRST}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/messages": chat,
        "/v1/chat/completions": chat | {"n": 2},
        "/v1/completions": {"model": "default", "max_tokens": 9, "prompt": LONG},
        "/v1/responses": {"model": "default", "max_output_tokens": 20, "input": LONG},
    }
    for path, body in bodies.items():
        for stream in (False, True):
            response = scheduled.http().post(path, json=body | {"stream": stream})
            assert response.status_code == 200, response.text
            found = read_header(response)
        assert found["why"] == "none", path  # the second time, all is found
        assert int(found["prompt"]) - int(found["found"]) <= 32
        report = scheduled.http().get(f"/v1/requests/{response.headers['request-id']}").json()
        assert report["path"] == path


def test_a_raw_prompt_that_goes_on_is_known_by_its_tokens(scheduled: Scheduled) -> None:
    causes = []
    for prompt in (LONG, LONG + "Yes.And on." * 20, LONG[:300] + "Otherwise." * 20):
        body = {"model": "default", "max_tokens": 9, "prompt": prompt}
        found = read_header(scheduled.http().post("/v1/completions", json=body))
        causes.append((found["why"], found.get("at")))
    assert causes == [("cold", "0"), ("none", None), ("cold", "300")]
