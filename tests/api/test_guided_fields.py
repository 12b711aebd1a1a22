"""What an answer must look like, in the words of many servers."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from pensieve.api.answer_options import AnswerOptions, TextRule, answer_options
from pensieve.api.openai.chat import messages_request
from pensieve.api.openai.requests import ChatRequest
from pensieve.api.schema import MessagesRequest

BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def both(**fields: Any) -> AnswerOptions:
    """Read the fields on OpenAI's route and on Anthropic's, which must agree."""
    chat = answer_options(messages_request(ChatRequest.model_validate(BODY | fields)))
    message = answer_options(MessagesRequest.model_validate(BODY | fields))
    assert (chat.answer_schema, chat.answer_rule) == (message.answer_schema, message.answer_rule)
    return chat


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"guided_json": SCHEMA},
        {"guided_json": '{"type": "object", "properties": {"a": {"type": "string"}}}'},
        {"structured_outputs": {"json": SCHEMA}},
        {"json_schema": SCHEMA},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
    ids=str,
)
def test_a_schema_may_stand_in_any_of_these_fields(fields: dict[str, Any]) -> None:
    assert both(**fields).answer_schema == SCHEMA


SURROGATE = '{"type": "object", "description": "\\ud83d"}'
AS_TEXT = [
    lambda text: {"guided_json": text},
    lambda text: {"response_format": {"type": "json_schema", "json_schema": {"schema": text}}},
]


@pytest.mark.parametrize("fields", AS_TEXT)
def test_a_schema_s_text_is_read_as_a_body_is(fields: Callable[[str], dict[str, Any]]) -> None:
    """24 MB of empty lists within a text stopped every stream for 5 s."""
    assert both(**fields(SURROGATE)).answer_schema == {"type": "object", "description": "\ufffd"}
    with pytest.raises(ValidationError, match="the JSON schema has more than 300000 values"):
        both(**fields("[" + "[]," * 300_001 + "0]"))


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": "json_object"},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": None}}},
        {"structured_outputs": {"json_object": True}},
    ],
    ids=str,
)
def test_without_a_schema_any_object_will_do(fields: dict[str, Any]) -> None:
    assert both(**fields).answer_schema == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"guided_regex": "a+"}, TextRule("regex", ("a+",))),
        ({"regex": "a+"}, TextRule("regex", ("a+",))),
        ({"response_format": {"type": "regex", "pattern": "a+"}}, TextRule("regex", ("a+",))),
        ({"guided_choice": ["a", "b"]}, TextRule("choice", ("a", "b"))),
        ({"structured_outputs": {"choice": ["a", "b"]}}, TextRule("choice", ("a", "b"))),
        ({"grammar": "root ::= x"}, TextRule("grammar", ("root ::= x",))),
        ({"ebnf": "root ::= x"}, TextRule("grammar", ("root ::= x",))),
        ({"response_format": {"type": "grammar", "grammar": "g"}}, TextRule("grammar", ("g",))),
    ],
    ids=str,
)
def test_a_rule_of_the_text_may_stand_in_any_of_these_fields(fields: dict[str, Any], rule: TextRule) -> None:
    assert both(**fields).answer_rule == rule


@pytest.mark.parametrize(
    "fields", [{}, {"response_format": {"type": "text"}}, {"guided_json": None, "grammar": ""}], ids=str
)
def test_nothing_asked_leaves_the_answer_free(fields: dict[str, Any]) -> None:
    assert not both(**fields).is_value
