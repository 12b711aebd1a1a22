"""Follows the tags of one answer through text, or bytes, that is still growing.

The parser follows an answer's text, and the constraint follows its bytes. For both, this module decides which
tags can come, where the first of them stands, and what the text after that tag belongs to.
"""

from collections import abc
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import AnyStr, Generic


class Mode(Enum):
    """The part of an answer that the next text belongs to."""

    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


@dataclass(frozen=True)
class AnswerTags(Generic[AnyStr]):
    """The tags that can occur in one answer.

    calls: the tags at which calls start. call_end: empty where a call lasts until the end of the answer.
    silent: marks around text, which are no part of it.
    """

    calls: abc.Sequence[AnyStr] = ()
    call_end: AnyStr | None = None
    thinking: tuple[AnyStr, AnyStr] | None = None
    stop_sequences: abc.Sequence[AnyStr] = ()
    silent: abc.Sequence[AnyStr] = ()

    @cached_property
    def starts(self) -> list[AnyStr]:
        """The tags at which calls and thoughts start."""
        return list(self.calls) + ([self.thinking[0]] if self.thinking else [])

    @cached_property
    def ends(self) -> dict[Mode, list[AnyStr]]:
        """The tags that may end each mode."""
        return {
            Mode.TEXT: self.starts + self.in_value,
            Mode.THINKING: [self.thinking[1]] if self.thinking else [],
            Mode.CALL: [self.call_end] if self.call_end else [],
        }

    @cached_property
    def in_value(self) -> list[AnyStr]:
        """The tags that count in a value."""
        return list(self.silent) + list(self.stop_sequences)

    @cached_property
    def first_letters(self) -> frozenset[AnyStr]:
        """The first character of each tag; a text without any of them holds no tag."""
        return frozenset(tag[:1] for tags in self.ends.values() for tag in tags)


class TagFollower(Generic[AnyStr]):
    """Splits an answer at its tags.

    mode: what the unread text belongs to, up to the next tag.
    unread: text that has not been taken; after `take`, it begins with a tag or the possible beginning of one.
    """

    __slots__ = ("_tags", "mode", "unread")

    def __init__(self, tags: AnswerTags[AnyStr], mode: Mode, unread: AnyStr) -> None:
        self._tags: AnswerTags[AnyStr] = tags
        self.mode = mode
        self.unread: AnyStr = unread

    def take(self, in_value: bool = False) -> tuple[AnyStr, AnyStr | None]:
        """Take and return the text before the next tag, and that tag; None in its place if none is complete.

        The tag stays unread until `cross`; the possible beginning of a tag stays unread as well.
        in_value: the text is a value, in which only stop sequences and silent marks count as tags.
        """
        tags = self._tags.in_value if in_value else self._tags.ends[self.mode]
        if not any(letter in self.unread for letter in self._tags.first_letters):
            tags = []  # a request may have many tags
        found = find_first(self.unread, tags)
        place = len(self.unread) - overlap(self.unread, tags) if found is None else found[0]
        text, self.unread = self.unread[:place], self.unread[place:]
        return text, None if found is None else found[1]

    def cross(self, tag: AnyStr) -> None:
        """Take the tag that `take` has found, and change the mode.

        The end tag of a call does not change the mode: it may be part of an argument. `end_call` ends a call.
        """
        self.unread = self.unread[len(tag) :]
        if self.mode is Mode.THINKING:
            self.mode = Mode.TEXT
        elif self.mode is Mode.TEXT and tag in self._tags.calls:
            self.mode = Mode.CALL
        elif self.mode is Mode.TEXT and self._tags.thinking and tag == self._tags.thinking[0]:
            self.mode = Mode.THINKING

    def end_call(self, remainder: AnyStr) -> None:
        """End the call and continue in text. remainder: text of the call to read again, before the unread."""
        self.mode = Mode.TEXT
        self.unread = remainder + self.unread

    def copy(self) -> "TagFollower[AnyStr]":
        """Return an independent copy."""
        return TagFollower(self._tags, self.mode, self.unread)


def find_first(text: AnyStr, tags: abc.Sequence[AnyStr]) -> tuple[int, AnyStr] | None:
    """Return (start, tag) of the tag with the smallest end: the result is the same for chunks of any size."""
    found = [(place + len(tag), place, tag) for tag in tags if (place := text.find(tag)) >= 0]
    if not found:
        return None
    _, place, tag = min(found)
    return place, tag


def overlap(text: AnyStr, tags: abc.Sequence[AnyStr]) -> int:
    """Return the length of the longest suffix of `text` that begins a tag. `text` holds no whole tag."""
    longest = 0
    for tag in tags:
        place = text.find(tag[0], 1 - len(tag))  # from where the whole tag would not fit any more
        while place >= 0 and not tag.startswith(text[place:]):
            place = text.find(tag[0], place + 1)
        if place >= 0:
            longest = max(longest, len(text) - place)
    return longest
