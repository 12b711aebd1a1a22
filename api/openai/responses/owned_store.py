"""Entries of several clients in memory: those used last, as many as fit."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class OwnedEntry(Protocol):
    """What is kept for a client."""

    @property
    def owner(self) -> str:
        """The key of the client that it is kept for; other clients do not find it."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes, about."""


Entry = TypeVar("Entry", bound=OwnedEntry)


class OwnedStore(Generic[Entry]):
    """Entries by their ids, bounded in number and in bytes. Those that were used longest ago go first."""

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of the entries, about."""
        return self._num_bytes

    def get(self, owner: str, entry_id: str) -> Entry | None:
        """Return an entry that is kept for `owner`; None where there is none."""
        entry = self._entries.get(entry_id)
        if entry is None or entry.owner != owner:
            return None
        self._entries.move_to_end(entry_id)
        return entry

    def _keep(self, entry_id: str, entry: Entry) -> None:
        """Keep an entry under an id that no other one has."""
        self._entries[entry_id] = entry
        self._grow(entry_id, entry.num_bytes)

    def _grow(self, entry_id: str, num_bytes: int) -> None:
        """Count bytes that an entry takes more, or less, and drop others where the store is full."""
        self._num_bytes += num_bytes
        self._entries.move_to_end(entry_id)
        while self._entries and (self._num_bytes > self._max_bytes or len(self._entries) > self._max_entries):
            self._drop(next(iter(self._entries)))

    def _drop(self, entry_id: str) -> Entry:
        """Drop an entry and return it."""
        entry = self._entries.pop(entry_id)
        self._num_bytes -= entry.num_bytes
        return entry
