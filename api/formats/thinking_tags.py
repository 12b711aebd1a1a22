"""The tags around a model's thoughts, and the marks around the text after them."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from ..protocols import Tokenizer
from . import harmony

# Tags that mlx-lm does not look for.
OTHER_TAGS = (
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),  # MiniMax M3
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B and later
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<think:opensource>", "</think:opensource>"),  # Hy3
    ("<|think|>", "<|end|>"),  # Solar Open
)
CHANNEL_START = "<|channel>"  # Gemma 4: the word behind it is left out at times
APRIEL_START, APRIEL_END = "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"

TO_ALL = ">>>all\n"
RECIPIENT = ">>>"  # with which Functionary's prompts end

# Muse Glimmer's messages name their recipient: the model itself, the user or a tool.
TO_SELF, TO_USER = " to=self<|message|>", " to=user<|message|>"
MESSAGE_END, MESSAGE_START = "<|eom|>", "<|start|>assistant"

# Marks around a model's text that are no part of it: those of one entry are found together.
SILENT_MARKS = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Command R7B and later
    ("<|START_TEXT|>", "<|END_TEXT|>"),  # Command A and later
    ("[END FINAL RESPONSE]",),  # Apriel
    ("<|python_tag|>",),  # Llama 3, before calls
    ("<|python_start|>", "<|python_end|>"),  # Llama 4, before calls
    (TO_ALL,),  # Functionary 3.2
    ("<|begin|>assistant", "<|content|>", "<|end|>"),  # Solar Open
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),  # Kimi K3
    ("<channel|>",),  # Gemma 4, which ends thoughts that it has not begun
)

# Tags around the whole of an answer's text, and what a template that speaks of them holds.
WRAPS = (
    ("<response>", "</response>", "<response></response>"),  # Granite 3.3
    ("<answer>", "</answer>", "<answer>"),  # Hunyuan
)


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """The tags at which thoughts start and end.

    closing: the text that closes thoughts in the model's place. closing_tokens: its token ids.
    label: what a model may write or leave out behind the start, and is no part of its thoughts.
    """

    start: str
    end: str
    closing: str = ""
    closing_tokens: tuple[int, ...] = ()
    label: str = ""


def find_thinking_tags(tokenizer: Tokenizer) -> ThinkingTags | None:
    """Find the tags of a model's thoughts; None when it has none."""
    if harmony.is_harmony(tokenizer):
        return _tags(tokenizer, harmony.THOUGHT, harmony.END, harmony.CLOSING)
    if tokenizer.think_start and tokenizer.think_start.startswith(CHANNEL_START) and tokenizer.think_end:
        label = tokenizer.think_start.removeprefix(CHANNEL_START) + "\n"
        return replace(_tags(tokenizer, CHANNEL_START, tokenizer.think_end), label=label)
    if tokenizer.think_start and tokenizer.think_end:
        return _tags(tokenizer, tokenizer.think_start, tokenizer.think_end)
    if has_marks(tokenizer, (TO_SELF,)):
        return _tags(tokenizer, TO_SELF, MESSAGE_END, MESSAGE_END + MESSAGE_START)
    if has_marks(tokenizer, (APRIEL_END,)):
        return _tags(tokenizer, APRIEL_START, APRIEL_END)
    return next((_tags(tokenizer, *pair) for pair in OTHER_TAGS if has_marks(tokenizer, pair)), None)


def find_silent_marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    """List the marks that a model writes around its text."""
    marks = tuple(mark for marks in SILENT_MARKS if has_marks(tokenizer, marks) for mark in marks)
    return marks + ((TO_USER, MESSAGE_END, MESSAGE_START) if has_marks(tokenizer, (TO_SELF,)) else ())


def find_wrap(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Find the tags that a model with thoughts may write around the text after them; None for none."""
    if find_thinking_tags(tokenizer) is None:
        return None
    return next(((start, end) for start, end, mark in WRAPS if has_marks(tokenizer, (mark,))), None)


def has_marks(tokenizer: Tokenizer, marks: Collection[str]) -> bool:
    """Whether each of some marks stands in the chat template, or is made of tokens and such text."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    template = getattr(tokenizer, "chat_template", None)
    text = template.replace("\\n", "\n") if isinstance(template, str) else ""
    return all(mark in text or _is_made_of(mark, added, text) for mark in marks)


def _is_made_of(mark: str, tokens: Collection[str], text: str) -> bool:
    """Whether a mark holds some of the tokens, and the parts between them stand in a text."""
    parts = re.split("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "$", mark)
    return len(parts) > 1 and all(part in text for part in parts)


def _tags(tokenizer: Tokenizer, start: str, end: str, closing: str = "") -> ThinkingTags:
    closing = closing or f"\n{end}\n\n"
    return ThinkingTags(start, end, closing, tuple(tokenizer.encode(closing, add_special_tokens=False)))
