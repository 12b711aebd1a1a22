"""Holds back thoughts from where a call starts in them: not all models end their thoughts before a call."""

from collections import abc

from ..formats.tag_follower import TagSet


class HeldThoughts:
    """The thoughts of one answer that are held back. If more thoughts end after them, they are thoughts."""

    def __init__(self, starts: abc.Iterable[str], end: str) -> None:
        """starts: the tags at which calls start. end: the tag that ends a call; empty where none does."""
        self._starts = TagSet(starts if end else ())
        self._parts: list[str] = []
        self._holds_start = False  # a whole tag, not only what may become one

    def add(self, text: str) -> str:
        """Take thoughts and return those that are not held back."""
        if self._holds_start:
            self._parts.append(text)
            return ""
        text = self.take() + text
        found = self._starts.find_first(text)
        place = len(text) - self._starts.overlap(text) if found is None else found[0]
        self._parts, self._holds_start = [text[place:]], found is not None
        return text[:place]

    def take(self) -> str:
        """Return the thoughts that are held, and hold them no longer."""
        text, self._parts, self._holds_start = "".join(self._parts), [], False
        return text

    def copy(self) -> "HeldThoughts":
        """Return an independent copy."""
        twin = HeldThoughts((), "")
        twin._starts = self._starts
        twin._parts, twin._holds_start = list(self._parts), self._holds_start
        return twin
