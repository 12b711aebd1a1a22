"""Finds the places of a prompt at which other prompts are likely to go on differently.

A model with recurrent states can resume a prompt only where a state was kept, and a state takes the memory of
some thousand tokens. So states are kept by meaning: sessions share tools and the system prompt's beginning;
a message is edited or answered again; templates leave thoughts out of the answers before the last question.
"""

from collections import abc

from ..protocols import TemplateMessage

SOUGHT = 200
"""Characters of a text by which it is found in the rendered prompt: templates trim texts."""


def find_branch_points(
    text: str, system: abc.Sequence[str], messages: abc.Sequence[TemplateMessage]
) -> list[int]:
    """Return offsets into `text`, a rendered prompt, in ascending order.

    They are the beginnings of the system prompt's blocks and of the first message, beginning and end of the
    last message of the user's own, and the end of the last message. What a template shows in another form is
    left out.
    system: the system prompt's blocks. messages: as the template was given them.
    """
    shown = [message for message in messages if message["role"] in ("user", "tool")]
    points, at = [], 0
    for words in [*system, *(message["content"] for message in shown[:1])]:
        found = _find_start(text, words, at)
        if found >= 0:
            points.append(found)
            at = found
    for message in [message for message in shown if message["role"] == "user"][-1:]:
        end = _find_end(text, message["content"])
        points += [text.rfind(message["content"].strip()[:SOUGHT], at, end), end]
    points += [_find_end(text, message["content"]) for message in shown[-1:]]
    return sorted({point for point in points if point > 0})


def _find_start(text: str, words: str, first: int) -> int:
    """Return where `words` begin in `text` at or after `first`; -1 where they do not."""
    sought = words.strip()[:SOUGHT]
    return text.find(sought, first) if sought else -1


def _find_end(text: str, words: str) -> int:
    """Return where `words` end in `text` for the last time; -1 where they do not."""
    sought = words.strip()[-SOUGHT:]
    found = text.rfind(sought) if sought else -1
    return found + len(sought) if found >= 0 else -1
