"""Responses that the server keeps: by their id, by their items, and by the key that asked."""

from typing import Any

import openai
import pytest

from ...conftest import Server
from ...exchange import CALL
from .exchange import BASH, respond


def test_an_answer_is_continued_by_its_id(server: Server) -> None:
    server.scheduler.play(server.script(f"One. {CALL}"))
    first = respond(server, input="First", tools=[BASH], instructions="Forget me.")
    result = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "a.txt"}
    second = respond(server, input=[result], previous_response_id=first.id, tools=[BASH])
    text = server.prompt_text()
    assert "Forget me." not in text
    assert text.endswith(
        "<|im_start|>user\nFirst<|im_end|>\n<|im_start|>assistant\nOne.\n"
        '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\na.txt<|im_end|>\n<|im_start|>assistant\n"
    )
    assert second.previous_response_id == first.id
    items = server.openai().responses.input_items.list(second.id, order="asc", limit=2)
    assert [item.type for item in items] == ["message", "message", "function_call", "function_call_output"]


def test_a_kept_response_can_be_read_and_deleted(server: Server) -> None:
    client, kept = server.openai().responses, respond(server)
    assert client.retrieve(kept.id) == kept
    client.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.retrieve(kept.id)
    passing = respond(server, store=False)
    with pytest.raises(openai.NotFoundError):
        client.retrieve(passing.id)
    with pytest.raises(openai.BadRequestError) as caught:
        respond(server, previous_response_id=passing.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_is_found_with_the_key_that_asked_for_it_alone(server: Server) -> None:
    kept = respond(server)
    with pytest.raises(openai.NotFoundError):
        server.openai(api_key="other").responses.retrieve(kept.id)


def test_references_name_kept_items_and_lost_ones_leave_a_note(server: Server) -> None:
    server.scheduler.play(server.script("One."))
    kept = respond(server)
    references: Any = [{"type": "item_reference", "id": item_id} for item_id in (kept.output[0].id, "msg_x")]
    respond(server, input=[*references, {"role": "user", "content": "Go on."}])
    assert "assistant\nOne.\n[an earlier item left out" in server.prompt_text()
