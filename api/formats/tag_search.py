"""Finds tags in text that is still growing: the first whole tag, and the possible beginning of one."""

from collections import abc
from typing import AnyStr


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
