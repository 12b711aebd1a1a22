"""A compacted conversation: the user's words, and the model's summary in place of all else."""

from typing import Any

import openai
import pytest

from ...conftest import Server
from ...exchange import CALL
from .exchange import BASH, respond


def test_a_conversation_is_compacted_and_goes_on(server: Server) -> None:
    server.scheduler.play(server.script(f"Look. {CALL}"), server.script("The folder holds a.txt."))
    first = respond(server, input="What is here?", tools=[BASH])
    result: Any = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "a.txt"}
    client: Any = server.openai().responses
    found = client.compact(model="default", previous_response_id=first.id, input=[result])
    assert "Summarise the conversation" in server.prompt_text()
    assert "a.txt" in server.prompt_text()
    assert found.object == "response.compaction"
    assert [item.type for item in found.output] == ["message", "compaction"]
    assert found.usage.input_tokens == len(server.scheduler.requests[-1].prompt)
    kept: Any = [item.to_dict(warnings=False) for item in found.output]
    respond(server, input=[*kept, {"role": "user", "content": "Go on."}])
    text = server.prompt_text()
    assert text.index("What is here?") < text.index("The folder holds a.txt.") < text.index("Go on.")
    assert "Look." not in text


def test_a_summary_of_another_server_leaves_a_note(server: Server) -> None:
    item: Any = {"type": "compaction", "encrypted_content": "opaque"}
    respond(server, input=[item, {"role": "user", "content": "Go on."}])
    assert "[an item of the type 'compaction', which this server cannot show]" in server.prompt_text()


def test_no_summary_is_made_up(server: Server) -> None:
    server.scheduler.play(server.script(""))
    with pytest.raises(openai.BadRequestError, match="written no summary"):
        server.openai().responses.compact(model="default", input="Hello")
