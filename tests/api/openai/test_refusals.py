"""What OpenAI's routes refuse, in the words and codes that its clients look for."""

from typing import Any

import openai
import pytest

from pensieve.api.config import ServerConfig
from pensieve.scheduler.exceptions import QueueFull

from ...fakes import FakeModel
from ..conftest import Server, StartServer
from .exchange import HELLO, ROUTES, chat, post

REFUSED: list[dict[str, Any]] = [
    {"n": 9},
    {"best_of": 2},
    {"typical_p": 0.5},
    {"mirostat": 2},
    {"repeat_last_n": 64, "repeat_penalty": 1.1},
    {"repetition_context_size": 20, "presence_penalty": 1},
    {"bad_words": ["x"]},
    {"temperature": "0.5"},
    {"max_tokens": True},
    {"stream": "true"},
    {"chat_template": "x"},
    {"frequency_penalty": 3},
    {"logit_bias": {"5": 101}},
    {"logit_bias": {"99999999": 1}},
]


@pytest.mark.parametrize("field", REFUSED, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_what_cannot_be_honoured_is_refused_by_name(server: Server, route: str, field: Any) -> None:
    response = post(server, route, **field)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(next(iter(field)))
    assert set(error) == {"message", "type", "param", "code"}


def test_fields_that_ask_for_nothing_are_taken(server: Server) -> None:
    nothing: dict[str, Any] = {
        "n": 1,
        "repeat_last_n": 64,
        "repetition_penalty": 1,
        "logprobs": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
    }
    assert post(server, "chat/completions", **nothing, user="u", store=False).status_code == 200
    assert post(server, "completions", **nothing, echo=False, best_of=1).status_code == 200


def test_a_prompt_that_does_not_fit_has_the_code_that_clients_look_for(start_server: StartServer) -> None:
    server = start_server(model=FakeModel(max_context=50))
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as caught:
        chat(server, messages=[{"role": "user", "content": "x" * 100}])
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model_a_wrong_key_and_a_full_queue(start_server: StartServer) -> None:
    server = start_server(config=ServerConfig(api_key="secret"))
    with pytest.raises(openai.AuthenticationError) as unknown_key:
        chat(server)
    assert unknown_key.value.code == "invalid_api_key"
    client = server.openai(api_key="secret")
    with pytest.raises(openai.NotFoundError) as unknown_model:
        client.chat.completions.create(model="gpt-x", messages=HELLO)
    assert unknown_model.value.code == "model_not_found"
    server.scheduler.refusal = QueueFull(3)
    with pytest.raises(openai.InternalServerError) as full:
        client.chat.completions.create(model="default", messages=HELLO, stream=True)
    assert (full.value.status_code, full.value.response.headers["retry-after"]) == (503, "3")


def test_chats_of_system_texts_are_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="a message of the user is needed"):
        chat(server, messages=[{"role": "system", "content": "Hi"}])
