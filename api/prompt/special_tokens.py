"""Keeps a prompt's special tokens apart from text that merely looks like them.

A tokenizer makes `<|im_end|>` the token that ends a turn wherever it stands: in a file that the model reads
as well as in the chat template. So a special token in content is split by a separator before the template
renders the content; a special token that is whole in the rendered text is the template's own. Content without
special tokens, the usual case, is only searched.

The rendered text is cut before the template's special tokens, and only segments that have not come before are
tokenised: of a conversation's next turn, that is the new end.
"""

import json
import logging
import re
import secrets
from bisect import bisect_right
from collections import Counter, abc
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, TypeVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from ..protocols import Tokenizer
from .renamed_tokenizer import RenamedTokenizer, can_replace
from .segment_cache import Ids, SegmentCache

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Some tokenizers have words or runs of spaces among their added tokens; those are text.
TAG_PATTERN = re.compile(r"[<\[{].+[>\]}]|[|｜].+[|｜]", re.DOTALL)  # noqa: RUF001  (DeepSeek's)

# Gemma 3 has tags of HTML among them. They are text, one token each as in the model's training, unless the
# model marks its turns, thoughts or calls with them.
HTML_PATTERN = re.compile(
    r"</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|sub|sup|code|p|ul|ol|li)>"
)

SAMPLE = "*user\nA b?  * \n\n*1 234 naïve 你好😀\n*\n* *  if x:\n\t\treturn[*]**the*"
"""Text around a special token, for a check of the ways in which tokenizers treat it."""

MAX_HEADER = 100
"""Characters between a special token and the words of a turn that it begins: the turn's header."""

NUM_CHECKED = 32  # special tokens in that check, of hundreds that some models have


class TokenisedText(NamedTuple):
    """A text's tokens, and its offsets among them."""

    tokens: list[int]
    positions: list[int]  # tokens before each offset, or a few less; empty where the text cannot be cut


class SpecialTokens:
    """One tokenizer's special tokens, and its other added tokens that are written like tags."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        used = _own_marks(tokenizer)
        self._contents = {i: token.content for i, token in added.items() if _is_special(token, used)}
        special = list(self._contents.values())
        self._token_pattern = re.compile(_any_of(special))
        self._first_char_pattern = re.compile(f"(?={_any_of(special)})(.)", re.DOTALL)
        # Content is searched as JSON, which writes some characters in another way.
        self._json_pattern = re.compile(
            _any_of([json.dumps(token, ensure_ascii=False)[1:-1] for token in special])
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._renamed: RenamedTokenizer | None = None
        self._cache: SegmentCache | None = None
        if isinstance(backend, Backend):
            self._renamed = RenamedTokenizer(backend, added, special)
            if can_replace(tokenizer, backend, added, special) and self._cuts_well(self._renamed, special):
                self._cache = SegmentCache(self._renamed.encode)

    @property
    def cuts(self) -> bool:
        """Whether texts are cut at special tokens, so that a prompt's parts can be tokenised apart."""
        return self._cache is not None

    def begins(self, text: str, place: int) -> bool:
        """Return whether a special token begins in a text at a place."""
        return self._token_pattern.match(text, place) is not None

    def decode(self, tokens: list[int]) -> str:
        """Return the text of some tokens."""
        return self._tokenizer.decode(tokens)

    def keep_out_of(self, tokens: abc.Sequence[int], words: str) -> bool:
        """Return whether no special token among `tokens` stands in `words`, a part of their text."""
        sampled = Counter(self._contents[token] for token in tokens if token in self._contents)
        in_words = {content: words.count(content) for content in sampled if content in words}
        if not in_words:
            return True
        text = self.decode(list(tokens))  # letters that look like one of them are counted here as well
        return all(text.count(content) - sampled[content] >= count for content, count in in_words.items())

    def escape(self, content: T) -> tuple[T, str]:
        """Split the special tokens in all strings of a JSON value, keys included, by a random separator.

        Returns the value and the separator, which is empty when the value holds no special token.
        """
        if not self._json_pattern.search(json.dumps(content, ensure_ascii=False)):
            return content, ""
        separator = f"q{secrets.token_hex(8)}q"  # letters, because templates may write content as JSON
        return self._split(content, separator), separator

    def encode(
        self, text: str, separator: str, offsets: abc.Sequence[int] = (), space: bytes = b""
    ) -> TokenisedText:
        """Tokenise a rendered text whose content `escape` has split by `separator`.

        No special token is added: the template has written all of them, also the one that begins a prompt.
        offsets: of characters of `text`, in ascending order, whose places among the tokens are asked for.
        space: see SegmentCache.
        """
        if self._renamed is None or not (separator or self._cache is not None):
            parts = text.split(separator) if separator else [text]
            encoded = [self._tokenizer.encode(part, add_special_tokens=False) for part in parts]
            return TokenisedText(list(chain.from_iterable(encoded)), [])
        renamed = self._rename(self._renamed, text, separator)
        if self._cache is None:
            return TokenisedText(self._renamed.encode([renamed])[0], [])
        segments = self._renamed.segments(renamed)
        ids = self._cache.encode(segments, space)
        parts = [text[first:end] for first, end in pairwise([0, *offsets])]
        places = accumulate(len(self._rename(self._renamed, part, separator)) for part in parts)
        return TokenisedText(
            list(chain.from_iterable(ids)),
            list(_positions(places, segments, ids, self._cache, space)),
        )

    def _rename(self, renamed: RenamedTokenizer, text: str, separator: str = "") -> str:
        """Return `text` with the special tokens' random names in their places, and without separators."""
        names = renamed.names
        text = self._token_pattern.sub(lambda token: names[token[0]], text)
        return text.replace(separator, "") if separator else text

    def _cuts_well(self, renamed: RenamedTokenizer, special: list[str]) -> bool:
        """Check that the segments of a sample, joined, have the tokenizer's own ids."""
        some = special[:: len(special) // NUM_CHECKED + 1]
        sample = "".join(SAMPLE.replace("*", token) for token in some)
        segments = renamed.segments(self._rename(renamed, sample))
        ids = [token for segment in renamed.encode(segments) for token in segment]
        if ids == self._tokenizer.encode(sample, add_special_tokens=False):
            return True
        logger.warning("special tokens do not cut this tokenizer's texts: prompts are tokenised as a whole")
        return False

    def _split(self, value: Any, separator: str) -> Any:
        if isinstance(value, str):
            return self._first_char_pattern.sub(rf"\1{separator}", value)
        if isinstance(value, Mapping):
            return {
                self._split(key, separator): self._split(entry, separator) for key, entry in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._split(entry, separator) for entry in value]
        return value


def _positions(
    places: Iterable[int], segments: list[str], ids: list[Ids], cache: SegmentCache, space: bytes
) -> Iterator[int]:
    """Yield how many tokens end before each of `places`, offsets into the joined `segments`, or a few less.

    A place that is near the beginning of a segment counts as the beginning itself.
    """
    begins = [0, *accumulate(map(len, segments))]
    counts = [0, *accumulate(map(len, ids))]
    for place in places:
        index = bisect_right(begins, place) - 1
        within = place - begins[index]
        inside = 0
        if within > MAX_HEADER:
            (before,) = cache.encode([segments[index][:within]], space)
            inside = len(before) - 1  # the last one may go on behind the place
        yield counts[index] + inside


def _is_special(token: AddedToken, used: str) -> bool:
    text = token.content
    if len(text) < 2:  # a single character cannot be split
        return False
    if token.special:
        return True
    is_text = HTML_PATTERN.fullmatch(text) is not None and text not in used
    return TAG_PATTERN.fullmatch(text) is not None and not is_text


def _own_marks(tokenizer: Tokenizer) -> str:
    """Return text that holds what the model marks its turns, thoughts and calls with, as far as is known."""
    marks = ("think_start", "think_end", "tool_call_start", "tool_call_end")
    texts = [getattr(tokenizer, "chat_template", None), *(getattr(tokenizer, name) for name in marks)]
    return "\n".join(json.dumps(text, ensure_ascii=False) for text in texts if text)


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern that matches the longest of some words; without words, one that never matches.

    It branches character by character: Llama 3 has 256 special tokens, and files hold many `<`.
    """
    tails: dict[str, list[str]] = {}
    words = list(words)
    for word in filter(None, words):
        tails.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(char) + (_any_of(rest) if any(rest) else "") for char, rest in tails.items()]
    if not branches:
        return "(?!)"
    if len(branches) == 1 and "" not in words:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if "" in words else "")
