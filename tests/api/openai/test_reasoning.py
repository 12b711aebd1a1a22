"""Thinking is switched by every name that clients have for it, and by the server's default."""

from typing import Any

import pytest

from pensieve.api.answer_options import ThinkingOptions, answer_options
from pensieve.api.config import ServerConfig, ThinkingDefault
from pensieve.api.errors import InvalidRequest
from pensieve.api.openai.chat import messages_request
from pensieve.api.openai.requests import ChatRequest
from pensieve.api.schema import MessagesRequest

from ...fakes import ByteTokenizer
from ..conftest import StartServer
from ..templates import THINKS_BY_DEFAULT
from .exchange import HELLO, post

BODY = {"model": "m", "max_tokens": 9, "messages": HELLO}


def of_chat(default: ThinkingDefault = "auto", **fields: Any) -> ThinkingOptions:
    return answer_options(messages_request(ChatRequest.model_validate(BODY | fields)), default).thinking


def of_message(default: ThinkingDefault = "auto", **fields: Any) -> ThinkingOptions:
    return answer_options(MessagesRequest.model_validate(BODY | fields), default).thinking


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize(
    "name", ["enable_thinking", "think", "thinking", "reasoning", "kwargs", "template's", "type", "enabled"]
)
def test_a_switch_may_have_any_name(name: str, is_on: bool) -> None:
    others: dict[str, dict[str, Any]] = {
        "kwargs": {"chat_template_kwargs": {"enable_thinking": is_on}},
        "template's": {"chat_template_kwargs": {"thinking": is_on}},
        "type": {"thinking": {"type": "enabled" if is_on else "disabled"}},
        "enabled": {"reasoning": {"enabled": is_on}},
    }
    found = of_chat(**others.get(name, {name: is_on}))
    assert (found.wanted, found.forbidden) == (is_on, not is_on)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "high"},
        {"reasoning": {"effort": "high"}},
        {"reasoning": "high"},
        {"think": "high"},
        {"chat_template_kwargs": {"reasoning_effort": "high"}},
    ],
)
def test_an_effort_may_have_any_name(fields: dict[str, Any]) -> None:
    assert of_chat(**fields).effort == "high"


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget": 100},
        {"thinking_token_budget": 100},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"reasoning": {"max_tokens": 100}},
    ],
)
def test_a_budget_may_have_any_name(fields: dict[str, Any]) -> None:
    found = of_chat(**fields)
    assert (found.wanted, found.num_tokens) == (True, 100)
    assert of_chat(thinking_budget=0).forbidden


def test_without_a_word_the_default_decides() -> None:
    assert [of_chat(default).wanted for default in ("auto", "on", "off")] == [None, True, False]
    assert [of_message(default).wanted for default in ("auto", "on", "off")] == [False, True, False]
    assert [of_message(default).forbidden for default in ("auto", "on", "off")] == [False, False, True]
    assert of_chat("off", enable_thinking=True).wanted
    assert of_message("on", thinking={"type": "disabled"}).forbidden
    assert of_message("off", chat_template_kwargs={"enable_thinking": True}).wanted


def test_variables_of_the_template_are_handed_on_but_not_those_of_the_server() -> None:
    assert of_message(chat_template_kwargs={"style": "brief"}).variables == (("style", "brief"),)
    with pytest.raises(InvalidRequest, match=r"chat_template_kwargs\.tools: "):
        of_message(chat_template_kwargs={"tools": []})


@pytest.mark.parametrize(
    ("default", "fields", "thinks"),
    [
        ("auto", {}, True),
        ("off", {}, False),
        ("off", {"chat_template_kwargs": {"enable_thinking": True}}, True),
        ("on", {"enable_thinking": False}, False),
    ],
)
def test_a_template_that_thinks_by_default_is_switched(
    start_server: StartServer, default: ThinkingDefault, fields: Any, thinks: bool
) -> None:
    server = start_server(
        tokenizer=ByteTokenizer(THINKS_BY_DEFAULT, thinks=True), config=ServerConfig(thinking=default)
    )
    server.scheduler.play(server.script("<think>Hm.</think>Yes."), server.script("<think>Hm.</think>Yes."))
    message = post(server, "chat/completions", **fields).json()["choices"][0]["message"]
    assert server.prompt_text().endswith("</think>\n\n") != thinks
    assert message["reasoning_content"] == "Hm."
    hidden = post(server, "chat/completions", **fields, include_reasoning=False)
    assert "Hm." not in hidden.text
