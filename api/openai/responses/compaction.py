"""`POST /v1/responses/compact`: a conversation becomes its user's words and the model's summary of all."""

import json
import time
from collections.abc import Iterable
from typing import Any

from ...errors import InvalidRequest
from ...formats.output_events import OutputEvent, TextDelta
from ...formats.thinking_signature import seal
from ...output.answer import Answer
from .input_items import MessageItem
from .item_turns import text_part
from .open_items import new_id
from .response_store import StoredItem
from .response_writers import Body, usage_body

INSTRUCTION = (
    "Summarise the conversation so far for an assistant who will go on with it and will see nothing else of "
    "it than the user's own messages: what was asked, what was done and found, what was decided and why, "
    "names of files, commands and values that are still needed, and what is left to do. Write the summary "
    "alone."
)


def compacting_item() -> MessageItem:
    """Return the message that asks the model for a summary."""
    return MessageItem(role="user", content=[text_part(INSTRUCTION)])


def user_items(items: Iterable[StoredItem]) -> list[Body]:
    """Return a conversation's messages that are the user's. Takes a while where the items are many."""
    return [item for item in map(_read, items) if _is_of_user(item)]


class CompactionBuilder:
    """Builds the body of a compacted conversation. The summary is sealed as thoughts are, not encrypted."""

    def __init__(self, said: list[Body]) -> None:
        """said: the user's items of the conversation before."""
        self._said = said
        self._fragments: list[str] = []

    def add(self, events: Iterable[OutputEvent]) -> None:
        """Take the answer's next output events."""
        self._fragments += [event.text for event in events if isinstance(event, TextDelta)]

    def message(self, answer: Answer) -> Body:
        """Return the body. Raises InvalidRequest where the model has written no summary."""
        summary = "".join(self._fragments).strip()
        if not summary:
            raise InvalidRequest("compact: the model has written no summary: ask again")
        compaction = {"id": new_id("cmp"), "type": "compaction", "encrypted_content": seal(summary)}
        return {
            "id": new_id("resp"),
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [*self._said, compaction],
            "usage": usage_body(answer),
        }


def _read(item: StoredItem) -> Any:
    return json.loads(item.text)


def _is_of_user(item: Body) -> bool:
    return (item["type"], item.get("role")) == ("message", "user")
