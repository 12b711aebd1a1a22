"""Responses that the server keeps in memory, for `previous_response_id` and for clients that ask for them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from .owned_store import OwnedStore

MAX_BYTES = 64 * 1024 * 1024  # of all responses that are kept
MAX_RESPONSES = 1000


class StoredItem(NamedTuple):
    """An item as JSON, with its id."""

    id: str
    text: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with the conversation that led to it.

    owner: the key of the client that asked; other clients do not find the response.
    context: items of the conversation's earlier requests and answers, shared with those entries.
    own_input, output: items of this request and of its answer.
    """

    owner: str
    body: bytes
    context: tuple[StoredItem, ...]
    own_input: tuple[StoredItem, ...]
    output: tuple[StoredItem, ...]
    num_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        # What several entries share is counted for each of them: the sum is a bound, not a measurement.
        items = sum(len(item.text) for item in self.conversation)
        object.__setattr__(self, "num_bytes", len(self.body) + items)

    @property
    def input(self) -> tuple[StoredItem, ...]:
        """The items that the model was shown."""
        return self.context + self.own_input

    @property
    def conversation(self) -> tuple[StoredItem, ...]:
        """The items that a request which continues the response begins with."""
        return self.input + self.output


class ResponseStore(OwnedStore[StoredResponse]):
    """The responses used last, as many as fit, and their items."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_responses: int = MAX_RESPONSES) -> None:
        super().__init__(max_bytes, max_responses)
        self._items: dict[str, tuple[str, StoredItem]] = {}  # by the item's id, with that of its response

    def put(self, response_id: str, entry: StoredResponse) -> None:
        """Keep a response, in the place of one of the same id."""
        if response_id in self._entries:
            self._drop(response_id)
        self._items |= {item.id: (response_id, item) for item in entry.own_input + entry.output}
        self._keep(response_id, entry)

    def item(self, owner: str, item_id: str) -> StoredItem | None:
        """Return an item of a response that `owner` has asked for; None where none is kept."""
        response_id, item = self._items.get(item_id, ("", None))
        return item if self.get(owner, response_id) else None

    def delete(self, owner: str, response_id: str) -> bool:
        """Drop a response; return whether it was there."""
        if self.get(owner, response_id) is None:
            return False
        self._drop(response_id)
        return True

    def _drop(self, response_id: str) -> StoredResponse:
        entry = super()._drop(response_id)
        for item in entry.own_input + entry.output:
            if self._items.get(item.id, ("",))[0] == response_id:
                del self._items[item.id]
        return entry
