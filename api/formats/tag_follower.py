"""Follows the tags of one answer through text, or bytes, that is still growing.

The parser follows an answer's text, and the constraint follows its bytes. Which tags can come, where the
first of them stands, and what the text after it belongs to is decided here for both.
"""

from collections import abc
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import AnyStr, Generic

from .tag_search import find_first, overlap


class Mode(Enum):
    """What the next text of an answer belongs to."""

    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"


@dataclass(frozen=True)
class AnswerTags(Generic[AnyStr]):
    """The tags that can occur in one answer: pairs of a start and an end tag, and stop sequences.

    call: the end tag is empty where a call lasts until the end of the answer.
    """

    call: tuple[AnyStr, AnyStr] | None = None
    thinking: tuple[AnyStr, AnyStr] | None = None
    stop_sequences: abc.Sequence[AnyStr] = ()

    @cached_property
    def starts(self) -> list[AnyStr]:
        """The tags at which calls and thoughts start."""
        return [pair[0] for pair in (self.call, self.thinking) if pair]

    @cached_property
    def ends(self) -> dict[Mode, list[AnyStr]]:
        """The tags that may end each mode."""
        return {
            Mode.TEXT: self.starts + list(self.stop_sequences),
            Mode.THINKING: [self.thinking[1]] if self.thinking else [],
            Mode.CALL: [self.call[1]] if self.call and self.call[1] else [],
        }


class TagFollower(Generic[AnyStr]):
    """Splits an answer at its tags.

    mode: what the unread text belongs to, up to the next tag.
    unread: text that has not been taken; after `take`, what a tag begins or may begin in.
    """

    __slots__ = ("_tags", "mode", "unread")

    def __init__(self, tags: AnswerTags[AnyStr], mode: Mode, unread: AnyStr) -> None:
        self._tags: AnswerTags[AnyStr] = tags
        self.mode = mode
        self.unread: AnyStr = unread

    def take(self, in_value: bool = False) -> tuple[AnyStr, AnyStr | None]:
        """Take the text before the next tag; return it and that tag, None where no whole tag has come.

        The tag stays unread until `cross`, and so does what may be the beginning of one.
        in_value: the text is a value, in which only stop sequences count.
        """
        tags = self._tags.stop_sequences if in_value else self._tags.ends[self.mode]
        found = find_first(self.unread, tags)
        place = len(self.unread) - overlap(self.unread, tags) if found is None else found[0]
        text, self.unread = self.unread[:place], self.unread[place:]
        return text, None if found is None else found[1]

    def cross(self, tag: AnyStr) -> None:
        """Read the tag that `take` has found, and change the mode.

        The end tag of a call changes nothing: it may be part of an argument. Calls end at `end_call`.
        """
        self.unread = self.unread[len(tag) :]
        if self.mode is Mode.THINKING:
            self.mode = Mode.TEXT
        elif self.mode is Mode.TEXT and self._tags.call and tag == self._tags.call[0]:
            self.mode = Mode.CALL
        elif self.mode is Mode.TEXT and self._tags.thinking and tag == self._tags.thinking[0]:
            self.mode = Mode.THINKING

    def end_call(self, remainder: AnyStr) -> None:
        """Go on with text after a call. remainder: text of the call that is to be read anew."""
        self.mode = Mode.TEXT
        self.unread = remainder + self.unread

    def copy(self) -> "TagFollower[AnyStr]":
        """Make a follower that goes on from here by itself."""
        return TagFollower(self._tags, self.mode, self.unread)
