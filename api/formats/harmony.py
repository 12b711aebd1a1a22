"""Rewrites gpt-oss's answers, which are messages with headers, to text with a tag for each kind of message.

A message is `<|start|>assistant`, `<|channel|>` with a channel and perhaps a recipient, `<|message|>`, its
text and `<|end|>`. A call ends with `<|call|>`, the last message with `<|return|>`; both end the answer.
The recipient may stand before or after the channel. In the rewritten text, thoughts begin with THOUGHT and
end with END, calls begin with CALL_START and end with CALL, and text for the user has no tags. Only special
tokens part messages: their letters, in a file that the model writes, are text.

Source of the format: OpenAI's guide to it, developers.openai.com/cookbook/articles/openai-harmony.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..protocols import Tokenizer
from .detokenizer import Detokenizer

START, CHANNEL, MESSAGE, END, CALL = "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"
MARKS = (START, CHANNEL, MESSAGE, END, CALL)
THOUGHT = f"{CHANNEL}analysis{MESSAGE}"
PREAMBLE = f"{CHANNEL}commentary{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
FINAL_VALUE = f"{CHANNEL}final <|constrain|>json{MESSAGE}"
CALL_START = f"{CHANNEL}commentary to=functions."
NEXT = f"{START}assistant"
CLOSING = f"{END}{NEXT}"  # ends a thought and lets the model choose what comes next

RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
SPLIT = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")
MAX_HEADER = 500  # characters


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the special tokens of this format."""
    return {*find_marks(tokenizer).values()} == {*MARKS}


def find_marks(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the special tokens that part messages, by their ids."""
    added = tokenizer.added_tokens_decoder.items()
    return {i: token.content for i, token in added if token.content in MARKS}


def rewritten(text: str) -> str:
    """Return whole messages, as a chat template writes them, with tags in the place of their headers."""
    messages = _Messages()
    parts = [messages.mark(part) if part in MARKS else messages.text(part) for part in SPLIT.split(text)]
    return "".join(parts) + messages.unheaded()


@dataclass(slots=True)
class _Messages:
    """Follows messages, and returns their text with tags in the place of headers.

    header: what has come of the present header. end: the tag to write at the open message's end; None within
    a header. has_words: some message was text for the user. Messages begin within a header that the prompt
    has begun.
    """

    header: str = ""
    end: str | None = None
    has_words: bool = False

    def text(self, text: str) -> str:
        """Take text that is no mark."""
        if self.end is not None:
            return text
        self.header += text
        if len(self.header) < MAX_HEADER:
            return ""
        self.end = ""  # too long for a header: the model broke the format
        body, self.header = self.header, ""
        return body

    def mark(self, mark: str) -> str:
        """Take a mark."""
        if self.end is None:
            if mark == MESSAGE:
                return self._open()
            return self.text(mark)
        if mark in (CHANNEL, MESSAGE):
            return mark
        tag, self.end = self.end, None
        self.header = mark if mark == START else ""
        return tag

    def unheaded(self) -> str:
        """Return text at the answer's end that has no header; a header that was cut off is none."""
        return "" if CHANNEL in self.header or START in self.header else self.header

    def _open(self) -> str:
        """Begin the text of a message; return its tag."""
        header, self.header = self.header, ""
        recipient = RECIPIENT.search(header)
        if recipient is not None:
            self.end = CALL
            return f"{CALL_START}{recipient[1]}{MESSAGE}"
        if f"{CHANNEL}analysis" in header:
            self.end = END
            return THOUGHT
        gap, self.end, self.has_words = "\n\n" if self.has_words else "", "", True
        return gap


class HarmonyText:
    """A detokenizer on top of another; its first text is the rest of a header that the prompt has begun."""

    def __init__(self, inner: Detokenizer, marks: Mapping[int, str], in_text: bool = False) -> None:
        """marks: the special tokens that part messages, by their ids.

        in_text: the first text is the rest of a message that the prompt has begun.
        """
        self._inner = inner
        self._marks = marks
        self._messages = _Messages(end="" if in_text else None)

    def add(self, tokens: list[int]) -> str:
        """Take tokens and return the text that has become certain, with tags in place of headers."""
        parts: list[str] = []
        first = 0
        for place, token in enumerate(tokens):
            if (mark := self._marks.get(token)) is not None:
                text = self._inner.add(tokens[first : place + 1])
                parts += [self._messages.text(text.removesuffix(mark)), self._messages.mark(mark)]
                first = place + 1
        parts.append(self._messages.text(self._inner.add(tokens[first:])))
        return "".join(parts)

    def flush(self) -> str:
        """Return the text that was held back; nothing may be added afterwards."""
        return self._messages.text(self._inner.flush()) + self._messages.unheaded()

    def copy(self) -> "HarmonyText":
        """Return an independent copy, with the text that is held back."""
        twin = HarmonyText(self._inner.copy(), self._marks)
        twin._messages = replace(self._messages)
        return twin
