"""Follows the tags of one answer through text, or bytes, that is still growing.

The parser follows an answer's text, and the constraint follows its bytes. For both, this module decides which
tags can come, where the first of them stands, and what the text after that tag belongs to.
"""

from bisect import bisect_left
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain
from typing import AnyStr, Generic


class Mode(Enum):
    """The part of an answer that the next text belongs to."""

    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


class TagSet(Generic[AnyStr]):
    """Tags to look for in a text, of which there may be hundreds: a format may have some for each tool."""

    def __init__(self, tags: abc.Iterable[AnyStr]) -> None:
        self._tags: frozenset[AnyStr] = frozenset(tags)
        self._sorted: list[AnyStr] = sorted(self._tags)
        self._lengths = sorted({len(tag) for tag in self._tags})
        self._letters: frozenset[AnyStr] = frozenset(tag[:1] for tag in self._tags)

    def find_first(self, text: AnyStr) -> tuple[int, AnyStr] | None:
        """Return (start, tag) of the tag with the smallest end: the same for chunks of any size."""
        found: tuple[int, AnyStr] | None = None
        for place in self._places(text, 0):
            if found is not None and place >= found[0] + len(found[1]):
                break
            for length in self._lengths:
                tag = text[place : place + length]
                if found is not None and place + length >= found[0] + len(found[1]):
                    break
                if tag in self._tags:
                    found = place, tag
        return found

    def overlap(self, text: AnyStr) -> int:
        """Return the length of the longest suffix of `text` that begins a tag. `text` holds no whole tag."""
        longest = self._lengths[-1] if self._lengths else 0
        for place in self._places(text, max(len(text) - longest + 1, 0)):
            end = text[place:]
            following = bisect_left(self._sorted, end)
            if following < len(self._sorted) and self._sorted[following].startswith(end):
                return len(end)
        return 0

    def _places(self, text: AnyStr, first: int) -> Iterator[int]:
        """Yield the places from `first` on at which a tag may begin."""
        if any(letter in text for letter in self._letters):
            yield from (
                place for place in range(first, len(text)) if text[place : place + 1] in self._letters
            )


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
    def ends(self) -> dict[Mode, TagSet[AnyStr]]:
        """The tags that may end each mode."""
        return {
            Mode.TEXT: TagSet(chain(self.starts, self.silent, self.stop_sequences)),
            Mode.THINKING: TagSet(self.thinking[1:] if self.thinking else ()),
            Mode.CALL: TagSet([self.call_end] if self.call_end else ()),
        }

    @cached_property
    def in_value(self) -> TagSet[AnyStr]:
        """The tags that count in a value."""
        return TagSet(chain(self.silent, self.stop_sequences))


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
        found = tags.find_first(self.unread)
        place = len(self.unread) - tags.overlap(self.unread) if found is None else found[0]
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
