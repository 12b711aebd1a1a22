"""Turns the calls that a reader finds into events."""

from collections.abc import Collection

from ...lenient import unparsed_input
from ..json_text import dump, is_json
from ..output_events import ArgumentsDelta, OutputEvent, ToolCallEnd, ToolCallStart, join_deltas


class CallWriter:
    """Makes the events of one call after another.

    The events of a call are certain when its name is one of `names`. The events of any other call, and all
    events after it, are deferred.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.is_open = False  # a call has started and not ended
        self.has_sent = False  # at least one call was certain
        self._names = names
        self._fragments: list[str] = []  # of the call's arguments, which may come before its name
        self._certain: list[OutputEvent] = []
        self._deferred: list[OutputEvent] = []

    @property
    def is_sent(self) -> bool:
        """Whether a call is open whose beginning was sent to the client."""
        return self.is_open and not self._deferred

    @property
    def has_deferred(self) -> bool:
        """Whether some events are certain only if the body ends well."""
        return bool(self._deferred)

    def start(self, name: str) -> None:
        """Begin a call."""
        self.is_open = True
        self._add(ToolCallStart(name), certain=name in self._names)
        self.has_sent |= not self._deferred
        if self._fragments:
            self._add(ArgumentsDelta("".join(self._fragments)))

    def write(self, fragment: str) -> None:
        """Add a fragment to the call's arguments. Fragments may come before the call's name."""
        self._fragments.append(fragment)
        if self.is_open:
            self._add(ArgumentsDelta(fragment))

    def end(self) -> None:
        """End a call; the arguments of a call without any are an empty object."""
        if not self._fragments:
            self.write("{}")
        self._end()

    def cut(self) -> None:
        """End a call that was cut off, with JSON that is incomplete, as the client can see."""
        if not self._fragments:
            self.write("{")
        self._end()

    def break_off(self, unread: str, body: str) -> None:
        """End a call whose JSON is broken, so that no client can take it for complete.

        unread: the text after the fragments. body: all text of the call.
        """
        if not self._fragments:
            self.write(dump(unparsed_input(body)))
        elif not is_json("".join(self._fragments) + unread):  # else some client's reader may accept it
            self.write(unread)
        self._end()

    def take(self) -> list[OutputEvent]:
        """Return the events that are certain, with neighbouring fragments joined."""
        events, self._certain = self._certain, []
        return join_deltas(events)

    def take_deferred(self) -> list[OutputEvent]:
        """Return the events that were deferred to the end of the body."""
        events, self._deferred = self._deferred, []
        return join_deltas(events)

    def _end(self) -> None:
        self._add(ToolCallEnd())
        self.is_open = False
        self._fragments = []

    def _add(self, event: OutputEvent, certain: bool = True) -> None:
        (self._certain if certain and not self._deferred else self._deferred).append(event)
