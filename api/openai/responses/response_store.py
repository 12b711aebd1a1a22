"""Responses that the server keeps in memory, for `previous_response_id` and for clients that ask for them."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

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


class ResponseStore:
    """The responses used last, as many as fit."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_responses: int = MAX_RESPONSES) -> None:
        self._max_bytes = max_bytes
        self._max_responses = max_responses
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: dict[str, tuple[str, StoredItem]] = {}  # by the item's id, with that of its response
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of the entries, at most."""
        return self._num_bytes

    def put(self, response_id: str, entry: StoredResponse) -> None:
        """Keep a response, and drop those that were used longest ago where the store is full."""
        if response_id in self._entries:
            self._remove(response_id)
        self._entries[response_id] = entry
        self._num_bytes += entry.num_bytes
        self._items |= {item.id: (response_id, item) for item in entry.own_input + entry.output}
        while self._entries and (
            self._num_bytes > self._max_bytes or len(self._entries) > self._max_responses
        ):
            self._remove(next(iter(self._entries)))

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response that `owner` has asked for; None where none is kept."""
        entry = self._entries.get(response_id)
        if entry is None or entry.owner != owner:
            return None
        self._entries.move_to_end(response_id)
        return entry

    def item(self, owner: str, item_id: str) -> StoredItem | None:
        """Return an item of a response that `owner` has asked for; None where none is kept."""
        response_id, item = self._items.get(item_id, ("", None))
        return item if self.get(owner, response_id) else None

    def delete(self, owner: str, response_id: str) -> bool:
        """Drop a response; return whether it was there."""
        if self.get(owner, response_id) is None:
            return False
        self._remove(response_id)
        return True

    def _remove(self, response_id: str) -> None:
        entry = self._entries.pop(response_id)
        self._num_bytes -= entry.num_bytes
        for item in entry.own_input + entry.output:
            if self._items.get(item.id, ("",))[0] == response_id:
                del self._items[item.id]
