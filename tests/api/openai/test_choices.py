"""Several answers to one prompt: OpenAI's `n`, whole and streamed."""

import json
from typing import Any

import pytest

from pensieve.scheduler.exceptions import QueueFull

from ..conftest import Server, wait_until
from .exchange import HELLO, ROUTES, chat, post


def play(server: Server, *texts: str) -> None:
    server.scheduler.play(*(server.script(text, num_cached=4) for text in texts))


def test_each_answer_has_its_index_and_the_usage_counts_the_prompt_once(server: Server) -> None:
    play(server, "One", "Two!", "Three")
    completion = chat(server, n=3, seed=2**64 - 2)
    assert [choice.message.content for choice in completion.choices] == ["One", "Two!", "Three"]
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    prompts = {tuple(request.prompt) for request in server.scheduler.requests}
    assert len(prompts) == 1
    assert completion.usage.prompt_tokens == len(prompts.pop())
    assert completion.usage.completion_tokens == len("OneTwo!Three") + 3
    assert [request.sampling.seed for request in server.scheduler.requests] == [2**64 - 2, 2**64 - 1, 0]


@pytest.mark.parametrize("route", ROUTES)
def test_a_stream_carries_all_answers_and_ends_once(server: Server, route: str) -> None:
    play(server, "One", "Two!")
    response = post(server, route, stream=True, n=2, stream_options={"include_usage": True})
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    *chunks, last = [json.loads(line) for line in data]
    texts, reasons = {0: "", 1: ""}, {}
    for chunk in chunks:
        choice: dict[str, Any] = chunk["choices"][0]
        texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "One", 1: "Two!"}
    assert reasons == {0: "stop", 1: "stop"}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], len("OneTwo!") + 2)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_when_one_answer_fails_all_end_with_an_error(server: Server) -> None:
    server.scheduler.play(server.script("One", hangs=True), server.script("Two", fails=True))
    response = post(server, "chat/completions", stream=True, n=2)
    assert '"error"' in response.text
    assert "[DONE]" not in response.text
    wait_until(lambda: all(stream.num_cancels for stream in server.scheduler.token_streams))


@pytest.mark.parametrize("is_stream", [False, True])
def test_all_answers_are_queued_or_none(
    server: Server, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = server.scheduler.submit

    def submit_two(request: Any) -> Any:
        if len(server.scheduler.requests) == 2:
            raise QueueFull(3)
        return submit(request)

    monkeypatch.setattr(server.scheduler, "submit", submit_two)
    body = {"model": "default", "messages": HELLO, "n": 4, "stream": is_stream}
    assert server.http().post("/v1/chat/completions", json=body).status_code == 503
    assert [stream.num_cancels for stream in server.scheduler.token_streams] == [1, 1]
