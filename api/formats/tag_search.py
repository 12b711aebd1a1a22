"""Marks in text that is still growing: the first whole one, and what may be the beginning of one."""

from collections import abc
from typing import AnyStr


def find_first(text: AnyStr, marks: abc.Sequence[AnyStr]) -> tuple[int, AnyStr] | None:
    """Find the mark that ends first, the only choice that does not depend on how much text is there."""
    found = [(place + len(mark), place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    if not found:
        return None
    _, place, mark = min(found)
    return place, mark


def overlap(text: AnyStr, marks: abc.Sequence[AnyStr]) -> int:
    """Count the characters or bytes at the end of `text` that a mark may begin with; it holds no mark."""
    longest = 0
    for mark in marks:
        place = text.find(mark[0], 1 - len(mark))  # from where the whole mark would not fit any more
        while place >= 0 and not mark.startswith(text[place:]):
            place = text.find(mark[0], place + 1)
        if place >= 0:
            longest = max(longest, len(text) - place)
    return longest
