"""How responses end when they do not end well, and what is refused."""

import json
from typing import Any

import httpx
import openai
import pytest

from pensieve.api.config import KeepAlive

from ....fakes import FakeModel, Script
from ...conftest import Server, StartServer, wait_until
from ...exchange import CALL
from .exchange import BASH, events, post, respond


def test_an_answer_that_is_cut_off_is_incomplete(server: Server) -> None:
    server.scheduler.play(server.script("far too long", size=1))
    found = respond(server, max_output_tokens=3)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (found.output[0].status, found.output_text) == ("incomplete", "far")
    assert events(post(server, stream=True, max_output_tokens=3).text)[-1]["type"] == "response.incomplete"


def test_a_call_that_is_cut_off_is_incomplete_and_can_be_sent_back(server: Server) -> None:
    server.scheduler.play(server.script(CALL, size=1))
    found = respond(server, max_output_tokens=len(CALL) - 40, tools=[BASH])
    assert (found.status, found.output[0].status) == ("incomplete", "incomplete")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(found.output[0].arguments)
    respond(server, input="Go on.", previous_response_id=found.id, tools=[BASH])
    assert "__unparsedToolInput" in server.prompt_text()


def test_a_failure_in_mid_stream_reaches_the_client(server: Server) -> None:
    server.scheduler.play(server.script("Hi", fails=True))
    last = events(post(server, stream=True).text)[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert post(server).status_code == 500


def test_leaving_ends_the_work(server: Server) -> None:
    server.scheduler.play(Script(hangs=True))
    with pytest.raises(httpx.ReadTimeout):
        post(server, timeout_s=1.0, stream=True)
    wait_until(lambda: server.scheduler.token_streams[0].was_aborted)


def test_pings_are_events(start_server: StartServer) -> None:
    server = start_server(keep_alive=KeepAlive(first_s=0.01, interval_s=0.01))
    server.scheduler.play(server.script("Hi", delay_s=0.1))
    found = events(post(server, stream=True).text)
    assert [event["type"] for event in found[:4]] == ["response.created"] + ["response.in_progress"] * 3
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"background": True, "store": False}, "background: the response must be stored"),
        ({"conversation": "conv_1"}, "conversation: 'conv_1' is not kept here"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "excludes previous_response_id"),
        ({"context_management": [{"type": "compaction"}]}, "context_management: not supported"),
        ({"prompt": {"id": "p"}}, "prompt: not supported"),
        ({"best_of": 2}, "best_of: "),
        ({"tools": [{"type": "file_search"}]}, "type 'file_search' is not supported"),
        ({"tools": [{"type": "computer", "environment": "linux"}]}, "type 'computer' is not supported"),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "in a container"),
        ({"tools": [BASH, BASH]}, "'Bash' occurs twice"),
        ({"tools": [{"type": "function"}]}, "needs a name"),
        ({"tool_choice": {"type": "web_search"}}, "no tool 'web_search' in tools"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tool_choice": "perhaps"}, "must be none, auto, required"),
        ({"input": []}, "conversation is empty"),
        ({"input": [5]}, "an item is an object"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input.0.role: "),
        ({"max_output_tokens": 0}, "max_output_tokens: "),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(server: Server, fields: Any, words: str) -> None:
    response = post(server, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]


def test_a_prompt_that_does_not_fit_has_the_code_that_clients_look_for(start_server: StartServer) -> None:
    server = start_server(model=FakeModel(max_context=50))
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as caught:
        respond(server, input="x" * 100)
    assert caught.value.code == "context_length_exceeded"
