"""The tags around a model's thoughts."""

from dataclasses import dataclass

from ..protocols import Tokenizer
from . import harmony

# Tags that mlx-lm does not look for: Magistral's and Seed-OSS's.
OTHER_TAGS = (("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """The tags at which thoughts start and end.

    closing: the text that closes thoughts in the model's place. closing_tokens: its token ids.
    """

    start: str
    end: str
    closing: str = ""
    closing_tokens: tuple[int, ...] = ()


def find_thinking_tags(tokenizer: Tokenizer) -> ThinkingTags | None:
    """Find the tags of a model's thoughts; None when it has none."""
    if harmony.is_harmony(tokenizer):
        return _tags(tokenizer, harmony.THOUGHT, harmony.END, harmony.CLOSING)
    if tokenizer.think_start and tokenizer.think_end:
        return _tags(tokenizer, tokenizer.think_start, tokenizer.think_end)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return next((_tags(tokenizer, *pair) for pair in OTHER_TAGS if added.issuperset(pair)), None)


def _tags(tokenizer: Tokenizer, start: str, end: str, closing: str = "") -> ThinkingTags:
    closing = closing or f"\n{end}\n\n"
    return ThinkingTags(start, end, closing, tuple(tokenizer.encode(closing, add_special_tokens=False)))
