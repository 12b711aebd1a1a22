"""The marks around a model's thoughts."""

from dataclasses import dataclass

from ..protocols import Tokenizer
from . import harmony

# Marks that mlx-lm does not look for: Magistral's and Seed-OSS's.
OTHER_MARKS = (("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


@dataclass(frozen=True, slots=True)
class ThinkMarks:
    """closing: what is written for a model to close its thoughts."""

    start: str
    end: str
    closing: str


def find_think_marks(tokenizer: Tokenizer) -> ThinkMarks | None:
    """Find the marks of a model's thoughts; None when it has none."""
    if harmony.is_harmony(tokenizer):
        return ThinkMarks(harmony.THOUGHT, harmony.END, harmony.CLOSING)
    if tokenizer.think_start and tokenizer.think_end:
        return _marks(tokenizer.think_start, tokenizer.think_end)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return next((_marks(*pair) for pair in OTHER_MARKS if added.issuperset(pair)), None)


def _marks(start: str, end: str) -> ThinkMarks:
    return ThinkMarks(start, end, f"\n{end}\n\n")
