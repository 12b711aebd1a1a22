"""Thoughts that end where their budget does."""

import json
from typing import Any

import httpx
import pytest

from pensieve.scheduler.exceptions import QueueFull

from ...fakes import IM_END, ByteTokenizer, Script
from ..conftest import Server, StartServer, wait_until

THINK, END = 260, 261
CLOSING = [10, END, 10, 10]
BASH = {"name": "Bash", "input_schema": {"type": "object"}}


@pytest.fixture
def thinker(start_server: StartServer) -> Server:
    return start_server(tokenizer=ByteTokenizer(thinks=True))


def ask(server: Server, budget: int, max_tokens: int = 99, timeout_s: float = 20, **fields: Any) -> Any:
    thinking = {"type": "enabled", "budget_tokens": budget}
    body = {"model": "default", "max_tokens": max_tokens, "thinking": thinking, **fields}
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
    assert (second.sampling, second.origin) == (first.sampling, first.origin)
    assert thinker.scheduler.token_streams[0].was_aborted
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


def test_a_closing_tag_that_takes_the_last_tokens_ends_the_answer(thinker: Server) -> None:
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


def test_a_template_that_opens_thoughts_is_counted_from_its_tag(start_server: StartServer) -> None:
    tokenizer = ByteTokenizer("{{ messages[0].content }}<think>", thinks=True)
    server = start_server(tokenizer=tokenizer)
    server.scheduler.play(Script([list(b"abcdefgh")], hangs=True), Script([[*b"Yes.", IM_END]]))
    assert texts(ask(server, budget=3))[0] == "abc"


def test_leaving_in_the_second_part_ends_it(thinker: Server) -> None:
    thinker.scheduler.play(Script([[THINK, *b"abcd"]], hangs=True), Script(hangs=True))
    with pytest.raises(httpx.ReadTimeout):
        ask(thinker, budget=2, timeout_s=0.5)
    wait_until(lambda: [made.was_aborted for made in thinker.scheduler.token_streams] == [True, True])


def call(command: str) -> list[int]:
    text = json.dumps({"name": "Bash", "arguments": {"command": command}})
    return ByteTokenizer().encode(f"<tool_call>{text}</tool_call>")


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("command", ["a <think> b", "a <tool_call> <think> b", "</tool_call> <think> b"])
def test_a_call_that_speaks_of_thoughts_is_none(thinker: Server, command: str, size: int) -> None:
    """The rest of such a call once counted as thoughts, and the closing tag was put into its argument."""
    answer = [THINK, *b"ab", END, *call(command)]
    chunks = [answer[i : i + size] for i in range(0, len(answer), size)]
    thinker.scheduler.play(Script(chunks))
    message = ask(thinker, budget=4, max_tokens=500, tools=[BASH])
    assert message["content"][-1]["input"] == {"command": command}
    assert len(thinker.scheduler.requests) == 1


def test_thoughts_behind_a_call_count(thinker: Server) -> None:
    thoughts = [THINK, *b"abcd"]
    thinker.scheduler.play(Script([[THINK, *b"ab", END, *call("ls"), *thoughts]]), Script([list(b"Yes.")]))
    message = ask(thinker, budget=4, max_tokens=500, tools=[BASH])
    assert [block["type"] for block in message["content"]] == ["thinking", "tool_use", "thinking", "text"]
    assert message["content"][2]["thinking"] == "ab"


def test_what_a_full_queue_let_go_on_is_never_closed_later(thinker: Server) -> None:
    """Tokens of the step that was to be the last were not looked through, and may have begun a call."""
    submit = thinker.scheduler.submit
    errors = iter([None, QueueFull(1)])

    def second_fails(request: Any) -> Any:
        if (error := next(errors, None)) is not None:
            raise error
        return submit(request)

    thinker.scheduler.submit = second_fails  # type: ignore[method-assign]
    tokens = call("a <think> b")
    thinker.scheduler.play(
        Script([[THINK, *b"abcd", END, *tokens[:9]], tokens[9:]]),
    )
    message = ask(thinker, budget=2, max_tokens=500, tools=[BASH])
    assert message["content"][-1]["input"] == {"command": "a <think> b"}
