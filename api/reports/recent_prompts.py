"""The prompts that came last, with the tokens of their answers: a new prompt is compared with them.

A prompt that a later one of its conversation continues is forgotten, so that a conversation has about one.
"""

from array import array
from collections import OrderedDict, abc
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

from .prompt_outline import PromptOutline

TOKEN_BYTES = array("I").itemsize

MAX_BYTES = 32 * 2**20
"""Memory of all recent prompts: 140 conversations of 60,000 tokens."""

PROMPT_BYTES, MESSAGE_BYTES = 1000, 10
"""Memory of a prompt and of a message beside the tokens: objects, hashes, the place in the dictionary."""

MAX_SEEN, MAX_COMPARED = 256, 6
"""Most prompts whose outlines a new prompt is compared with, and of these most whose tokens."""

HEADER_TOKENS = 16
"""Tokens at a prompt's end that may be the header of its answer, which the next prompt may show otherwise."""


MAX_STEP = 4096
"""Tokens that are compared at once: larger pieces of memory cost a system call each."""


def pack(tokens: abc.Sequence[int]) -> bytes:
    """Return tokens as bytes, which are compared in microseconds. 60,000 tokens take 0.7 ms to pack."""
    return array("I", tokens).tobytes()


def unpack(packed: bytes) -> list[int]:
    """Return the tokens of `pack`."""
    return array("I", packed).tolist()


class PromptTrace(NamedTuple):
    """What a prompt is known by. tokens: see `pack`."""

    outline: PromptOutline
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a request. key: digest of the API key that let it in, empty where none is asked for.

    session, agent: as the client names them, empty where it does not.
    """

    key: bytes
    session: str = ""
    agent: str = ""


@dataclass(slots=True, eq=False)
class RecentPrompt:
    """A prompt, and the tokens of its answer once it has ended."""

    sender: Sender
    outline: PromptOutline
    tokens: bytes  # see `pack`
    num_prompt_tokens: int
    num_computed: int = 0  # of the first tokens whose KV was certainly computed once
    is_running: bool = True
    reply: int | None = None  # hash of the answer; None for one that no client can send back as it was

    @property
    def num_bytes(self) -> int:
        """The memory that the prompt takes, about."""
        return PROMPT_BYTES + len(self.tokens) + MESSAGE_BYTES * len(self.outline.messages)

    def is_continued(self, num_shared: int) -> bool:
        """Return whether another prompt that begins with `num_shared` of its tokens continues it."""
        return num_shared >= max(1, self.num_prompt_tokens - HEADER_TOKENS)

    def is_of_conversation(self, sender: Sender, outline: PromptOutline) -> bool:
        """Return whether it belongs to a request's conversation, by what sender and first messages are."""
        ours, theirs = self.outline.messages, outline.messages
        return self.sender == sender and any(a == b for a, b in zip(ours[:2], theirs[:2], strict=False))


class Relative(NamedTuple):
    """A recent prompt, and how many of its first tokens a new prompt begins with."""

    prompt: RecentPrompt
    num_shared: int


class RecentPrompts:
    """The latest prompts, up to a number of bytes. For one thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._prompts: OrderedDict[RecentPrompt, None] = OrderedDict()  # the latest used at the end
        self.num_bytes = 0

    def __iter__(self) -> Iterator[RecentPrompt]:
        return iter(self._prompts)

    def relatives(self, sender: Sender, outline: PromptOutline, tokens: bytes) -> list[Relative]:
        """Return the recent prompts of the sender's key that are most like a new one, the most like it first.

        Their outlines choose them: of other prompts not even the tokens are looked at.
        """
        latest = islice(reversed(self._prompts), MAX_SEEN)
        same_key = [prompt for prompt in latest if prompt.sender.key == sender.key]
        # nlargest is stable: of prompts that are equally like it, the latest ones are compared.
        likely = nlargest(MAX_COMPARED, same_key, key=lambda prompt: _likeness(prompt, sender, outline))
        found = [Relative(prompt, num_shared(prompt.tokens, tokens)) for prompt in likely]
        return sorted(found, key=lambda relative: -relative.num_shared)

    def add(self, prompt: RecentPrompt, relatives: abc.Iterable[Relative] = ()) -> None:
        """Keep a prompt in place of those of its conversation that it continues; the oldest make room.

        relatives: of the prompt.
        """
        for earlier, shared in relatives:
            prompt.num_computed = max(prompt.num_computed, min(shared, earlier.num_computed))
            is_own = earlier.is_of_conversation(prompt.sender, prompt.outline)
            if is_own and not earlier.is_running and earlier.is_continued(shared):
                self._remove(earlier)
        self._prompts[prompt] = None
        self.num_bytes += prompt.num_bytes
        self._trim()

    def end(self, prompt: RecentPrompt, answer: abc.Sequence[int], reply: int | None) -> None:
        """Add the tokens of its answer to a prompt that was computed to its end. reply: see RecentPrompt.

        The last sampled token counts as not computed: no step has been fed with it.
        """
        is_kept = prompt in self._prompts
        self.num_bytes -= prompt.num_bytes if is_kept else 0
        prompt.tokens += pack(answer)
        prompt.num_computed = len(prompt.tokens) // TOKEN_BYTES - bool(answer)
        prompt.reply = reply
        self.num_bytes += prompt.num_bytes if is_kept else 0
        self._trim()

    def _trim(self) -> None:
        while self.num_bytes > self._max_bytes and self._prompts:
            self._remove(next(iter(self._prompts)))

    def _remove(self, prompt: RecentPrompt) -> None:
        if prompt in self._prompts:
            del self._prompts[prompt]
            self.num_bytes -= prompt.num_bytes


def _likeness(prompt: RecentPrompt, sender: Sender, outline: PromptOutline) -> tuple[bool, int]:
    return prompt.is_of_conversation(sender, outline), prompt.outline.num_alike(outline)


def num_shared(a: bytes, b: bytes) -> int:
    """Return with how many tokens alike two packed prompts begin."""
    low, high = 0, min(len(a), len(b)) // TOKEN_BYTES
    step = 64  # most prompts of different conversations part early
    while low < high:
        middle = min(low + step, high)
        part = slice(low * TOKEN_BYTES, middle * TOKEN_BYTES)
        if a[part] == b[part]:
            low = middle
            step = min(2 * step, MAX_STEP)
        elif middle - low == 1:
            return low
        else:
            high = middle  # the first difference lies before it
            step = max(1, (middle - low) // 2)
    return low
