"""Responses that the server keeps: by their id, by their items, and by the key that asked."""

import json
from typing import Any

import openai
import pytest

from pensieve.api.openai.responses.response_store import ResponseStore, StoredItem, StoredResponse

from ....fakes import FakeModel
from ...conftest import Server, StartServer
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
    for limit in ("0", "101", "0000000000019999", "1" * 5000):
        with pytest.raises(openai.BadRequestError, match="limit"):
            server.openai().responses.input_items.list(second.id, extra_query={"limit": limit})


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


def test_a_client_may_count_its_prompt_and_have_old_messages_dropped(
    start_server: StartServer,
) -> None:
    server = start_server(model=FakeModel(max_context=300))
    conversation: Any = [{"role": "user", "content": f"{i} " + "x" * 40} for i in range(8)]
    with pytest.raises(openai.BadRequestError, match="prompt is too long"):
        respond(server, input=conversation)
    respond(server, input=conversation, truncation="auto", instructions="Be brief.")
    text = server.prompt_text()
    assert "Be brief." in text
    assert "7 xx" in text
    assert "0 xx" not in text
    count = server.openai().responses.input_tokens.count(model="default", input="Hello")
    respond(server)
    assert count.input_tokens == len(server.scheduler.requests[-1].prompt)


def test_tools_that_a_search_finds_can_be_called(server: Server) -> None:
    """The head of the prompt stays as it was: the tools are shown where the conversation finds them."""
    search: Any = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}
    server.scheduler.play(
        server.script('<tool_call>\n{"name": "tool_search", "arguments": {"q": "x"}}\n</tool_call>'),
        server.script(CALL.replace("Bash", "agents__Bash")),
    )
    first = respond(server, tools=[search])
    assert (first.output[0].type, first.output[0].arguments) == ("tool_search_call", {"q": "x"})
    nested = {"type": "namespace", "name": "agents", "tools": [BASH]}
    found = {"type": "tool_search_output", "call_id": first.output[0].call_id, "tools": [nested]}
    second = respond(server, input=[found], previous_response_id=first.id, tools=[search])
    assert (second.output[0].name, second.output[0].namespace) == ("Bash", "agents")
    head = server.prompt_text(0).removesuffix("<|im_start|>assistant\n")
    assert server.prompt_text(1).startswith(head)
    assert '"name": "agents__Bash"' in server.prompt_text(1)


def test_codex_compacts_a_conversation_on_the_prompt_that_is_cached(server: Server) -> None:
    """Codex leaves the tools out of the request, and they head the prompt."""
    turn: Any = {"prompt_cache_key": "s", "extra_body": codex_kind("turn")}
    compaction = turn | {"extra_body": codex_kind("compaction")}
    respond(server, **turn, tools=[BASH])
    more: Any = [{"role": "user", "content": text} for text in ("Hello", "Summarise.")]
    found = respond(server, **compaction, tools=[], input=more)
    head = server.prompt_text(0).removesuffix("<|im_start|>assistant\n")
    assert server.prompt_text().startswith(head.removesuffix("<|im_end|>\n"))
    assert "without calling a tool" in server.prompt_text()
    assert found.tools == []
    for others in ({"prompt_cache_key": "t"}, {"extra_body": codex_kind("turn")}):
        respond(server, **compaction | others, input=more)
        assert "Bash" not in server.prompt_text()


def codex_kind(kind: str) -> dict[str, Any]:
    return {"client_metadata": {"x-codex-turn-metadata": json.dumps({"request_kind": kind})}}


def entry(store: ResponseStore, name: str, size: int) -> None:
    store.put(name, StoredResponse("me", b"", (), (StoredItem(f"item-{name}", b"x" * size),), ()))


def test_the_store_drops_what_was_used_longest_ago() -> None:
    store = ResponseStore(max_bytes=100, max_responses=3)
    for name in "abc":
        entry(store, name, 10)
    assert store.get("me", "a")
    entry(store, "d", 10)
    assert [bool(store.get("me", name)) for name in "abcd"] == [True, False, True, True]
    assert (store.item("me", "item-b"), store.item("you", "item-a")) == (None, None)
    assert store.item("me", "item-a") == StoredItem("item-a", b"x" * 10)
    entry(store, "e", 75)
    entry(store, "e", 75)  # again, and counted once
    assert [bool(store.get("me", name)) for name in "cade"] == [False, True, True, True]
    entry(store, "f", 101)
    assert (len(store), store.num_bytes, store.item("me", "item-f")) == (0, 0, None)
