"""gpt-oss's answers, which are messages with headers: their text with one mark for each kind of message.

A message is `<|start|>assistant`, `<|channel|>` with a channel and perhaps a recipient, `<|message|>`, its
text and `<|end|>`; a call ends with `<|call|>` and the last message with `<|return|>`: both end the answer.
The recipient may stand on either side of the channel. Here thoughts keep their header and end mark, calls
get one form of header, and what is for the user loses all of it.

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
MAX_HEADER = 500  # its end mark included


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the marks of this format."""
    marks = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return marks >= {START, CHANNEL, MESSAGE, END, CALL}


class HarmonyText:
    """A detokenizer on top of another. The prompt ends with the beginning of a header."""

    def __init__(self, inner: Detokenizer) -> None:
        self._inner = inner
        self._text = ""  # a header, or what may be the beginning of a mark
        self._end: str | None = None  # what ends the message that is open, None within a header

    def add(self, tokens: list[int]) -> str:
        self._text += self._inner.add(tokens)
        return self._take()

    def flush(self) -> str:
        self._text += self._inner.flush()
        text, self._text = self._take() + self._text, ""
        return text

    def copy(self) -> "HarmonyText":
        """Make a detokenizer that goes on from here by itself."""
        twin = HarmonyText(self._inner.copy())
        twin._text, twin._end = self._text, self._end
        return twin

    def _take(self) -> str:
        """Return what is certain."""
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
        """Show what is too long for a header: the model does not keep to the format."""
        if len(self._text) < MAX_HEADER:
            return ""
        body, self._text = self._text[:MAX_HEADER], self._text[MAX_HEADER:]
        self._end = ""
        return body

    def _take_body(self, end: str) -> str:
        places = [place for mark in (START, END, CALL) if (place := self._text.find(mark)) >= 0]
        if not places:
            place = _partial(self._text)
            body, self._text = self._text[:place], self._text[place:]
            return body
        body, self._text = self._text[: min(places)], self._text[min(places) :]
        mark = next((mark for mark in (END, CALL) if self._text.startswith(mark)), "")
        self._text = self._text.removeprefix(mark)  # another message's beginning stays
        self._end = None
        return body + end


def _partial(text: str) -> int:
    """Find the place at the end of a text where a mark may begin."""
    place = text.rfind("<", -len(START))
    return (
        place
        if place >= 0 and any(mark.startswith(text[place:]) for mark in (START, END, CALL))
        else len(text)
    )
