"""Rewrites gpt-oss's answers, which are messages with headers, to text with a tag for each kind of message.

A message is `<|start|>assistant`, `<|channel|>` with a channel and perhaps a recipient, `<|message|>`, its
text and `<|end|>`. A call ends with `<|call|>`, the last message with `<|return|>`; both end the answer.
The recipient may stand before or after the channel. In the rewritten text, thoughts begin with THOUGHT and
end with END, calls begin with CALL_START and end with CALL, and text for the user has no tags.

Source of the format: OpenAI's guide to it, developers.openai.com/cookbook/articles/openai-harmony.
"""

import re

from ..protocols import Tokenizer
from .detokenizer import Detokenizer

START, CHANNEL, MESSAGE, END, CALL = "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"
THOUGHT = f"{CHANNEL}analysis{MESSAGE}"
CALL_START = f"{CHANNEL}commentary to=functions."
CLOSING = f"{END}{START}assistant"  # ends a thought and lets the model choose what comes next

RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
MAX_HEADER = 500  # characters, with the MESSAGE that ends it


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the special tokens of this format."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return added >= {START, CHANNEL, MESSAGE, END, CALL}


class HarmonyText:
    """A detokenizer on top of another; its first text is the rest of a header that the prompt has begun."""

    def __init__(self, inner: Detokenizer) -> None:
        self._inner = inner
        self._text = ""  # an incomplete header, or the beginning of a possible special token
        self._end: str | None = None  # the tag to write at the open message's end; None within a header

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text that has become certain, with tags in place of headers."""
        self._text += self._inner.add(tokens)
        return self._take()

    def flush(self) -> str:
        """Return the text that was held back; nothing may be added afterwards."""
        self._text += self._inner.flush()
        text, self._text = self._take() + self._text, ""
        return text

    def copy(self) -> "HarmonyText":
        """Return an independent copy, with the text that is held back."""
        twin = HarmonyText(self._inner.copy())
        twin._text, twin._end = self._text, self._end
        return twin

    def _take(self) -> str:
        """Return the text that is certain."""
        parts: list[str] = []
        before: tuple[str, str | None] | None = None
        while (self._text, self._end) != before:
            before = (self._text, self._end)
            parts.append(self._take_header() if self._end is None else self._take_body(self._end))
        return "".join(parts)

    def _take_header(self) -> str:
        place = self._text.find(MESSAGE, 0, MAX_HEADER)
        if place < 0:
            return self._take_unheaded()
        header, self._text = self._text[:place], self._text[place + len(MESSAGE) :]
        recipient = RECIPIENT.search(header)
        if recipient is not None:
            self._end = CALL
            return f"{CALL_START}{recipient[1]}{MESSAGE}"
        self._end = END if f"{CHANNEL}analysis" in header else ""
        return THOUGHT if self._end else ""

    def _take_unheaded(self) -> str:
        """Return text that is too long for a header as a message's text: the model broke the format."""
        if len(self._text) < MAX_HEADER:
            return ""
        body, self._text = self._text[:MAX_HEADER], self._text[MAX_HEADER:]
        self._end = ""
        return body

    def _take_body(self, end: str) -> str:
        places = [place for token in (START, END, CALL) if (place := self._text.find(token)) >= 0]
        if not places:
            place = _partial(self._text)
            body, self._text = self._text[:place], self._text[place:]
            return body
        body, self._text = self._text[: min(places)], self._text[min(places) :]
        ending = next((token for token in (END, CALL) if self._text.startswith(token)), "")
        self._text = self._text.removeprefix(ending)  # a START stays: it begins the next header
        self._end = None
        return body + end


def _partial(text: str) -> int:
    """Return the index from which the end of a text may begin a special token; the text's length if none."""
    place = text.rfind("<", -len(START))
    may_begin = place >= 0 and any(token.startswith(text[place:]) for token in (START, END, CALL))
    return place if may_begin else len(text)
