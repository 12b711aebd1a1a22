"""An answer's text is what a rule of its request says, even of a model that emits noise."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ...schemas import record
from ..live import LiveServer

USER: Any = [{"role": "user", "content": "Say something."}]
FUNCTIONS: Any = [{"type": "function", "function": {"name": "t", "parameters": record()}}]


@pytest.fixture
def server(shared: LiveServer) -> Iterator[LiveServer]:
    with ExitStack() as clients:
        shared.clients = clients
        yield shared


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_regex": r"[a-c]{2}/\d"}, r"[a-c]{2}/\d"),
        ({"structured_outputs": {"choice": ["yes", "no/never"]}}, "yes|no/never"),
        ({"grammar": 'root ::= "a" [0-9] "z"'}, "a[0-9]z"),
        ({"guided_grammar": 'start: "a" /[0-9]/ "z"'}, "a[0-9]z"),
        ({"json_schema": {"enum": ["p", "q"]}}, r'\s*"[pq]"'),
        ({"response_format": {"type": "json_schema", "schema": {"const": 5}}}, r"\s*5"),
    ],
    ids=str,
)
def test_an_answers_text_is_what_its_rule_says(
    server: LiveServer, route: str, fields: dict[str, Any], expected: str
) -> None:
    asked: dict[str, Any] = {"messages": USER} if route.startswith("chat") else {"prompt": "Say"}
    body = {"model": "default", "max_tokens": 60, "temperature": 1, "seed": 3, "n": 2} | asked | fields
    answer = server.http().post(f"/v1/{route}", json=body).json()
    for choice in answer["choices"]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        assert re.fullmatch(expected, text), text
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guided_regex": "(?=a)b"}, "regex"),
        ({"guided_regex": "("}, "regex"),
        ({"grammar": "root ::= ]["}, "grammar"),
        ({"grammar": "start: nothing"}, "grammar"),
        ({"guided_choice": [""]}, "choice"),
        ({"grammar": 'root ::= "a"', "tools": FUNCTIONS}, "grammar: cannot be combined with tools"),
        ({"grammar": 'root ::= "a"', "guided_regex": "a"}, "two fields say"),
        ({"json_schema": "{"}, "the JSON schema is not valid JSON"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_be_followed_is_refused(
    server: LiveServer, fields: dict[str, Any], message: str
) -> None:
    response = server.http().post(
        "/v1/chat/completions", json={"model": "default", "messages": USER, "max_tokens": 9} | fields
    )
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
