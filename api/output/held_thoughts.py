"""Holds back thoughts from where a call starts in them: not all models end their thoughts before a call."""

from collections import abc

from ..formats.tag_follower import TagSet


class HeldThoughts:
    """The thoughts of one answer that are held back. If more thoughts end after them, they are thoughts."""

    def __init__(self, starts: abc.Iterable[str], end: str, label: str = "") -> None:
        """starts: the tags at which calls start. end: the tag that ends a call; empty where none does.

        label: what may stand behind the tag of thoughts and is no part of them.
        """
        self._starts = TagSet(starts if end else ())
        self._label = label
        self._parts: list[str] = []
        self._holds_start = False  # a whole tag, not only what may become one
        self._may_be_label = False

    def begin(self) -> None:
        """Begin thoughts behind their tag."""
        self._may_be_label = bool(self._label)

    def add(self, text: str) -> str:
        """Take thoughts and return those that are not held back."""
        if self._may_be_label:
            text = "".join(self._parts) + text
            if len(text) < len(self._label) and self._label.startswith(text):
                self._parts = [text]
                return ""
            self._parts, self._may_be_label = [], False
            text = text.removeprefix(self._label)
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
        is_label = self._may_be_label and text == self._label.rstrip()
        self._may_be_label = False
        return "" if is_label else text

    def copy(self) -> "HeldThoughts":
        """Return an independent copy."""
        twin = HeldThoughts((), "", self._label)
        twin._starts, twin._may_be_label = self._starts, self._may_be_label
        twin._parts, twin._holds_start = list(self._parts), self._holds_start
        return twin
