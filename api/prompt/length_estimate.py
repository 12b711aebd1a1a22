"""Judges a request's texts by their length, before they are rendered and tokenised as a whole.

To tokenise 16 MB takes half a minute and gigabytes. Of texts so long that they hardly fit, pieces are
tokenised until they have more tokens than the context holds.
"""

from collections import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...scheduler.exceptions import PromptTooLong

FITTING_CHARS = 5
"""Characters for each token of the context, up to which texts are not judged: English and code have four."""

PIECE_CHARS = 16_384

MARGIN = 1.1
"""Pieces may have some more tokens than the whole; only texts that are longer by a tenth are refused here."""

LEFT_OUT = "reasoning_content"  # templates show the thoughts of earlier answers or do not


def check_texts(content: Any, encode: Callable[[str], list[int]], max_tokens: int) -> None:
    """Raise PromptTooLong, with an estimate of the tokens, if texts have far more than `max_tokens`.

    content: what a template is given, a JSON value. encode: tokenises a text.
    """
    text = "\n".join(_texts(content))
    if len(text) <= FITTING_CHARS * max_tokens:
        return
    num_tokens = 0
    for start in range(0, len(text), PIECE_CHARS):
        num_tokens += len(encode(text[start : start + PIECE_CHARS]))
        if num_tokens > MARGIN * max_tokens:
            read = min(start + PIECE_CHARS, len(text))
            raise PromptTooLong(num_tokens * len(text) // read, max_tokens)


def _texts(value: Any) -> Iterator[str]:
    """Yield all strings of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if key != LEFT_OUT:
                yield key
                yield from _texts(entry)
    elif isinstance(value, abc.Sequence):
        for entry in value:
            yield from _texts(entry)
