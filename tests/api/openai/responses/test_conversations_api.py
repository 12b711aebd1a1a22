"""Conversations that the server keeps by name, and responses that go on with them."""

from typing import Any

import openai
import pytest

from pensieve.api.openai.responses.conversation_store import ITEM_BYTES, ConversationStore
from pensieve.api.openai.responses.response_store import StoredItem

from ...conftest import Server
from .exchange import respond

HELLO: Any = {"role": "user", "content": "My name is Ada."}


def test_a_conversation_grows_with_its_responses(server: Server) -> None:
    client: Any = server.openai().conversations
    made = client.create(items=[HELLO], metadata={"a": "b"})
    server.scheduler.play(server.script("One."), server.script("Two."))
    first = respond(server, input="First", conversation=made.id, store=False)
    assert (first.conversation.id, first.previous_response_id) == (made.id, None)
    respond(server, input="Second", conversation={"id": made.id}, background=True)
    with server.openai().responses.stream(model="default", input="Third", conversation=made.id) as stream:
        stream.until_done()
    text = server.prompt_text(1)
    places = [text.index(said) for said in ("Ada", "First", "One.", "Second")]
    assert places == sorted(places)
    items: list[Any] = list(client.items.list(made.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items if item.type == "message"]
    assert texts[:4] == ["My name is Ada.", "First", "One.", "Second"]
    assert all(item.status == "completed" for item in items if item.type == "message")


def test_a_failed_response_adds_nothing(server: Server) -> None:
    made = server.openai().conversations.create()
    server.scheduler.play(server.script("Hi", fails=True))
    with pytest.raises(openai.InternalServerError):
        respond(server, conversation=made.id)
    assert list(server.openai().conversations.items.list(made.id)) == []


def test_items_are_added_read_and_taken_out(server: Server) -> None:
    client: Any = server.openai().conversations
    made = client.create()
    call: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    added = client.items.create(made.id, items=[HELLO, call])
    assert [item.type for item in added.data] == ["message", "function_call"]
    assert client.items.retrieve(added.first_id, conversation_id=made.id).id == added.data[0].id
    assert client.items.delete(added.first_id, conversation_id=made.id) == made
    assert [item.id for item in client.items.list(made.id)] == [added.last_id]
    with pytest.raises(openai.NotFoundError, match="has no item"):
        client.items.retrieve(added.first_id, conversation_id=made.id)


def test_a_conversation_is_found_updated_and_deleted_by_its_key_alone(server: Server) -> None:
    client: Any = server.openai().conversations
    other = server.openai(api_key="other")
    made = client.create(metadata={"a": "b"})
    assert client.retrieve(made.id) == made
    assert client.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    with pytest.raises(openai.NotFoundError, match="no conversation"):
        other.conversations.retrieve(made.id)
    with pytest.raises(openai.BadRequestError, match="is not kept here"):
        other.responses.create(model="default", input="Hi", conversation=made.id)
    assert client.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.items.list(made.id)


def test_the_store_drops_the_conversations_used_longest_ago() -> None:
    store = ConversationStore(max_bytes=3 * (100 + ITEM_BYTES), max_conversations=3)
    made = [store.create("me", {}, [StoredItem(f"i{i}", b"x" * 100)]) for i in range(3)]
    assert store.get("me", made[0].id) is made[0]
    assert store.get("you", made[0].id) is None
    made.append(store.create("me", {}))
    assert [bool(store.get("me", entry.id)) for entry in made] == [True, False, True, True]
    store.add(made[0], [StoredItem("j", b"x" * 101)])
    assert [bool(store.get("me", entry.id)) for entry in made] == [True, False, False, True]
    store.remove(made[0], made[0].items[0])
    store.delete(made[0])
    store.add(made[0], [StoredItem("k", b"")])
    assert (len(store), store.num_bytes) == (1, 0)


def test_two_readers_of_one_answer_add_its_turn_once() -> None:
    """A proxy may keep the connection of a client that has left and asks again."""
    store = ConversationStore()
    made = store.create("me", {})
    for answer_id, text in (("a", b"1"), ("a", b"2"), ("b", b"3")):
        store.add_answer(made, answer_id, [StoredItem("i", text)])
    assert [item.text for item in made.items] == [b"1", b"3"]
