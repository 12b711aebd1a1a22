"""Answers that are kept to a schema, and speak of tags."""

import json
from typing import Any

from ...fakes import CHATML_TEMPLATE, Script
from ..conftest import StartServer
from ..grammar.byte_model import make_tokenizer

READ = {"name": "read", "input_schema": {"type": "object"}}
WANTED = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
VALUE = json.dumps({"summary": "It explains <think> and </think>, and <call>.", "n": 1})


def ask(start_server: StartServer, answer: str, **fields: Any) -> Any:
    """Ask a model that thinks, and for whose tokens grammars can be compiled."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML_TEMPLATE.replace("tool_call>", "call>")
    server = start_server(tokenizer=tokenizer)
    server.scheduler.play(Script([tokenizer.encode(answer)]))
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "default", "max_tokens": 500, "tools": [READ], "messages": messages, **fields}
    response = server.http().post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    return response.json()["content"]


def test_a_value_reaches_the_client_as_it_was_written(start_server: StartServer) -> None:
    assert ask(start_server, VALUE, output_config=WANTED) == [{"type": "text", "text": VALUE}]


def test_text_that_no_schema_binds_may_be_followed_by_thoughts_and_calls(start_server: StartServer) -> None:
    call = '<call>{"name": "read", "arguments": {}}</call>'
    for fields in ({}, {"output_config": WANTED, "tool_choice": {"type": "any"}}):
        content = ask(start_server, f"{call}So: <think>Hm.</think>{call}", **fields)
        assert [block["type"] for block in content] == ["tool_use", "text", "thinking", "tool_use"]
