"""Thoughts that end where their budget does."""

from typing import Any

import httpx
import pytest
from pensieve.scheduler.loop import QueueFull

from ...fakes import IM_END, ByteTokenizer, Script
from ..conftest import Server, StartServer, wait_until

THINK, END = 260, 261
CLOSING = [10, END, 10, 10]


@pytest.fixture
def thinker(start_server: StartServer) -> Server:
    return start_server(tokenizer=ByteTokenizer(thinks=True))


def ask(server: Server, budget: int, max_tokens: int = 99, timeout_s: float = 20) -> Any:
    thinking = {"type": "enabled", "budget_tokens": budget}
    body = {"model": "default", "max_tokens": max_tokens, "thinking": thinking}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    response = server.http().post("/v1/messages", json=body, timeout=timeout_s)
    assert response.status_code == 200
    return response.json()


def texts(message: Any) -> list[str]:
    return [block.get("thinking") or block["text"] for block in message["content"]]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_thoughts_are_closed_and_the_model_goes_on_from_there(thinker: Server, size: int) -> None:
    thoughts = [THINK, *b"abcdefgh"]
    chunks = [thoughts[i : i + size] for i in range(0, len(thoughts), size)]
    thinker.scheduler.play(Script(chunks, hangs=True), Script([list(b"Yes.")]))
    message = ask(thinker, budget=4)
    assert texts(message) == ["abcd", "Yes."]
    first, second = thinker.scheduler.requests
    assert second.prompt == [*first.prompt, THINK, *b"abcd", *CLOSING]
    assert second.max_tokens == first.max_tokens - 9
    assert (second.sampling, second.session) == (first.sampling, first.session)
    assert thinker.scheduler.generations[0].was_aborted
    assert message["usage"]["input_tokens"] == len(first.prompt)
    assert message["usage"]["output_tokens"] == 9 + 4 + 1
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize("budget", [8, 9, 100])
def test_thoughts_within_the_budget_are_left_alone(thinker: Server, budget: int) -> None:
    thinker.scheduler.play(Script([[THINK, *b"abcdefgh", END, *b"Yes, and on."]]))
    assert texts(ask(thinker, budget)) == ["abcdefgh", "Yes, and on."]
    assert len(thinker.scheduler.requests) == 1


def test_a_budget_does_not_bound_the_answer(thinker: Server) -> None:
    thinker.scheduler.play(Script([list(b"No thoughts at all.")]))
    assert texts(ask(thinker, budget=1)) == ["No thoughts at all."]


def test_a_closing_mark_that_takes_the_last_tokens_ends_the_answer(thinker: Server) -> None:
    thinker.scheduler.play(Script([[THINK, *b"abcdefgh"]], hangs=True))
    message = ask(thinker, budget=4, max_tokens=9)
    assert (texts(message), message["stop_reason"]) == (["abcd"], "max_tokens")
    assert len(thinker.scheduler.requests) == 1


def test_a_full_queue_lets_the_thoughts_go_on(thinker: Server) -> None:
    submit = thinker.scheduler.submit

    def once(request: Any) -> Any:
        if thinker.scheduler.requests:
            raise QueueFull(1)
        return submit(request)

    thinker.scheduler.submit = once  # type: ignore[method-assign]
    thinker.scheduler.play(Script([[THINK, *b"abcd"], list(b"efgh"), [END, *b"Yes."]]))
    assert texts(ask(thinker, budget=2)) == ["abcdefgh", "Yes."]


def test_a_template_that_opens_thoughts_is_counted_from_its_mark(start_server: StartServer) -> None:
    tokenizer = ByteTokenizer("{{ messages[0].content }}<think>", thinks=True)
    server = start_server(tokenizer=tokenizer)
    server.scheduler.play(Script([list(b"abcdefgh")], hangs=True), Script([[*b"Yes.", IM_END]]))
    assert texts(ask(server, budget=3))[0] == "abc"


def test_leaving_in_the_second_part_ends_it(thinker: Server) -> None:
    thinker.scheduler.play(Script([[THINK, *b"abcd"]], hangs=True), Script(hangs=True))
    with pytest.raises(httpx.ReadTimeout):
        ask(thinker, budget=2, timeout_s=0.5)
    wait_until(lambda: [made.was_aborted for made in thinker.scheduler.generations] == [True, True])
