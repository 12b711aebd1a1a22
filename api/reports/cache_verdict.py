"""Why the cache did not hold more of a prompt: a judgement from the prompts before it.

One rule orders the causes. What was computed once and is gone was evicted. Else the prompt is compared with
the nearest of its own conversation, and the first part in which they differ is the cause; prompts whose
parts are all alike, but not their tokens, were rendered otherwise. The first prompt of a conversation is cold
from the place on at which it parts from the nearest prompt of all.
"""

from collections import abc
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...cache.blocks import BLOCK_SIZE
from .prompt_outline import PromptOutline, message_name
from .recent_prompts import TOKEN_BYTES, Relative, Sender

Cause = Literal[
    "none", "cold", "evicted", "tools-changed", "system-changed", "history-rewritten", "template", "state"
]
"""Why no more was found.

none: what was not found is new, at the end of what earlier requests of the conversation had. state: the KV is
there, but no recurrent state or window to go on from.
"""

SHOWN_TOKENS = 24
"""Tokens that a report shows before a difference, and behind it of either prompt."""


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A prompt at its arrival. tokens: see `pack`.

    num_cached: tokens that need not be computed. num_matched: tokens whose KV is in the prefix tree: more,
    where a state is missing.
    """

    sender: Sender
    outline: PromptOutline
    tokens: bytes
    num_cached: int
    num_matched: int

    @property
    def num_usable(self) -> int:
        """Tokens that a cache can hold of it: full blocks, and not the last token."""
        return _full_blocks(len(self.tokens) // TOKEN_BYTES - 1)


class Difference(NamedTuple):
    """The tokens, packed, around the place at which a prompt parts from an earlier one."""

    before: bytes
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class CacheVerdict:
    """Why no more of a prompt was found.

    place: tokens before the difference, None where there is none. part: in which the difference lies, None
    where that is unknown. until: where so many tokens are found after all, read from disk or computed by
    another request, the verdict does not hold; None for one that holds whatever is found.
    """

    cause: Cause
    place: int | None = None
    part: str | None = None
    difference: Difference | None = None
    until: int | None = None


NOTHING_LOST = CacheVerdict("none")


class Judgement(NamedTuple):
    """The verdicts on a prompt, of which the first one holds that can, and then `NOTHING_LOST`.

    num_awaited: tokens, beyond those found at its arrival, that a running request is computing.
    """

    num_awaited: int = 0
    verdicts: tuple[CacheVerdict, ...] = ()

    def verdict(self, num_found: int) -> CacheVerdict:
        """Return the verdict on the prompt, of which `num_found` tokens were found."""
        holding = (one for one in self.verdicts if one.until is None or num_found < one.until)
        return next(holding, NOTHING_LOST)


def judge(new: NewPrompt, relatives: abc.Sequence[Relative]) -> Judgement:
    """Judge a prompt. relatives: the prompts most like it, the most like it first."""
    running = [relative.num_shared for relative in relatives if relative.prompt.is_running]
    num_awaited = max(0, min(_full_blocks(max(running, default=0)), new.num_usable) - new.num_cached)
    if new.num_cached >= new.num_usable:
        return Judgement()
    verdicts = []
    known = max((min(shared, earlier.num_computed) for earlier, shared in relatives), default=0)
    known = min(_full_blocks(known), new.num_usable)
    if known > max(new.num_matched, new.num_cached + num_awaited):
        verdicts.append(CacheVerdict("evicted", new.num_matched, until=known))
    verdicts.append(_compared(new, relatives))
    if new.num_matched > new.num_cached:
        verdicts.append(CacheVerdict("state", new.num_cached, until=new.num_matched))
    return Judgement(num_awaited, tuple(one for one in verdicts if one is not NOTHING_LOST))


def _compared(new: NewPrompt, relatives: abc.Sequence[Relative]) -> CacheVerdict:
    """Return the verdict that comes of comparing a prompt with the one of them that it should continue."""
    own = next((one for one in relatives if one.prompt.is_of_conversation(new.sender, new.outline)), None)
    if own is not None:
        cause, part = _cause_within(new.outline, own)
        if cause == "none":
            return NOTHING_LOST
        return CacheVerdict(cause, own.num_shared, part, _difference(new, own))
    if not relatives:
        return CacheVerdict("cold", 0, until=BLOCK_SIZE)
    nearest = relatives[0]
    if not new.outline.messages and nearest.prompt.is_continued(nearest.num_shared):
        return NOTHING_LOST
    part = new.outline.part(new.outline.num_alike(nearest.prompt.outline))
    until = _full_blocks(nearest.num_shared) + BLOCK_SIZE
    return CacheVerdict("cold", nearest.num_shared, part, _difference(new, nearest), until)


def _cause_within(outline: PromptOutline, own: Relative) -> tuple[Cause, str | None]:
    """Return the cause and the part for a prompt whose conversation has an earlier one."""
    earlier, shared = own
    if earlier.is_continued(shared):
        return _cause_in_reply(outline, own)
    num_alike = outline.num_alike(earlier.outline)
    if num_alike < 2:
        return ("system-changed" if num_alike else "tools-changed"), outline.part(num_alike)
    index = num_alike - 2
    if index < min(len(outline.messages), len(earlier.outline.messages)):
        return "history-rewritten", message_name(index)
    if len(outline.messages) < len(earlier.outline.messages):
        return "none", None  # the conversation has gone back to an earlier place
    return "template", None


def _cause_in_reply(outline: PromptOutline, own: Relative) -> tuple[Cause, str | None]:
    """Return the cause and the part for a prompt that continues an earlier one."""
    earlier, shared = own
    index = len(earlier.outline.messages)
    is_sent_back = outline.roles[index : index + 1] == "a"
    if not is_sent_back or earlier.is_running or shared >= len(earlier.tokens) // TOKEN_BYTES:
        return "none", None
    is_same = outline.messages[index] == earlier.reply
    return ("template" if is_same else "history-rewritten"), message_name(index)


def _difference(new: NewPrompt, compared: Relative) -> Difference:
    old, place = compared.prompt.tokens, compared.num_shared
    begin, end = max(0, place - SHOWN_TOKENS) * TOKEN_BYTES, (place + SHOWN_TOKENS) * TOKEN_BYTES
    place *= TOKEN_BYTES
    return Difference(new.tokens[begin:place], old[place:end], new.tokens[place:end])


def _full_blocks(num_tokens: int) -> int:
    return num_tokens - num_tokens % BLOCK_SIZE
