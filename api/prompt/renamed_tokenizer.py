"""A copy of a tokenizer that knows its special tokens by secret names only, and cuts texts at these names.

Why it may cut: the tokenizers library first takes the added tokens out of a text, the leftmost first and of
several the longest. Each stretch between them is then normalised, split and tokenised by itself; of its
place, the library only knows whether it begins the text. No other token can overlap a name, since nothing
else holds the name's secret. So the ids of a text are those of the parts before and after the beginning of a
name, joined, if neither part looks beyond the cut:

* `single_word` tokens look at the characters beside them: a tokenizer that has one is not cut.
* `lstrip` tokens swallow white space before them: no cut is made between white space and such a token.
* `rstrip` tokens swallow white space after them, which a name ends.
* A `normalized` token is sought after normalising: its name is no cut.
* A Metaspace pre-tokenizer may put a space before the stretch that begins a text: only the first part has
  such a stretch, as every other part begins with a name.

`can_replace` adds the conditions under which the copy's ids are the original's.
"""

import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

# The parts of the tokenizers library that treat each stretch between added tokens by itself. Strip is left
# out: in version 0.23 some stretches of white space make it take all memory.
NORMALIZERS = frozenset(
    {
        "BertNormalizer",
        "ByteLevel",
        "Lowercase",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Nmt",
        "Precompiled",
        "Prepend",
    }
    | {"Replace", "Sequence", "StripAccents"}
)
PRE_TOKENIZERS = frozenset(
    {
        "BertPreTokenizer",
        "ByteLevel",
        "CharDelimiterSplit",
        "Digits",
        "FixedLength",
        "Metaspace",
        "Punctuation",
    }
    | {"Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"}
)
MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})

# Names begin with one of these. A noncharacter passes all normalizers, but doubles the size of Python's text.
CUT, NO_CUT, END = "\x01", "\ufdd0", "."

ENCODERS = ("encode", "_encode_plus")  # methods of transformers that a model's class may replace


class RenamedTokenizer:
    """A copy of a tokenizer whose special tokens have random names, which no content can hold.

    names: the random name of each special token.
    """

    def __init__(self, backend: Backend, added: Mapping[int, AddedToken], special: Collection[str]) -> None:
        # Control characters around a random word: nobody can guess the name, so nobody can write it.
        secret = secrets.token_hex(8)
        self._cut = f"{CUT}{secret}."
        self.names = {
            token.content: _name(token, secret, i)
            for i, token in enumerate(added.values())
            if token.content in special
        }
        strips = [token.content for token in added.values() if token.lstrip and token.content in special]
        self._strips = tuple(self.names[content] for content in strips)
        # Vocabulary and merges are shared, not copied.
        self._backend = Backend(backend.model)
        self._backend.normalizer = backend.normalizer
        self._backend.pre_tokenizer = backend.pre_tokenizer
        renamed = [_renamed(token, self.names.get(token.content, token.content)) for token in added.values()]
        self._backend.add_tokens(renamed)
        renamed_ids = (self._backend.token_to_id(token.content) for token in renamed)
        self._original_ids = dict(zip(renamed_ids, added, strict=True))  # of added tokens

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the original tokenizer's ids of texts in which random names stand for special tokens."""
        # Batches release the GIL, and tokenise several texts side by side.
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        original = self._original_ids
        return [[original.get(token, token) for token in encoding.ids] for encoding in encodings]

    def segments(self, text: str) -> list[str]:
        """Cut a text before its special tokens: the segments' ids, joined, are the text's."""
        first, *rest = text.split(self._cut)
        segments = [first] if first else []
        for part in rest:
            segment = self._cut + part
            if segments and segment.startswith(self._strips) and segments[-1][-1].isspace():
                segment = segments.pop() + segment
            segments.append(segment)
        return segments


def can_replace(
    tokenizer: Any, backend: Backend, added: Mapping[int, AddedToken], special: Collection[str]
) -> bool:
    """Return whether a RenamedTokenizer makes the ids that `tokenizer` makes, also of texts that it has cut.

    backend: the tokenizer's own backend. special: the tokens that are renamed. Only the tokenizer's own
    description is read. What is not known here makes the answer False.
    """
    owner = type(getattr(tokenizer.encode, "__self__", None))
    if any(not _is_of_transformers(getattr(owner, name, None)) for name in ENCODERS):
        return False
    tokens = added.values()
    if backend.encode_special_tokens or any(token.single_word for token in tokens):
        return False
    normalizers, pre_tokenizers = _kinds(backend.normalizer), _kinds(backend.pre_tokenizer)
    if normalizers is None or pre_tokenizers is None:
        return False
    is_known = normalizers <= NORMALIZERS and pre_tokenizers <= PRE_TOKENIZERS
    model = backend.model
    if not is_known or type(model).__name__ not in MODELS or getattr(model, "dropout", None):
        return False
    # Else a text could become such a token by being normalised.
    if normalizers - {"Sequence"} and any(token.normalized for token in tokens if token.content in special):
        return False
    # The copy counts new ids from the vocabulary's size.
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return max(vocabulary.values(), default=0) < len(vocabulary) and not _hide(tokens, special)


def _hide(tokens: Collection[AddedToken], special: Collection[str]) -> bool:
    """Return whether some added token can cover the beginning of a special token, which is then not found.

    Of two special tokens that are both sought before normalising, the same one wins here as in the tokenizer.
    """
    beginnings = {content[:length] for content in special for length in range(1, len(content) + 1)}
    beginnings |= {CUT, NO_CUT}
    whole = set(special)
    for token in tokens:
        if token.content in whole and not token.normalized:
            continue
        for start in range(len(token.content)):
            rest = token.content[start:]
            if start and rest in beginnings:
                return True
            if any(rest[:length] in whole for length in range(1, len(rest) + (start > 0))):
                return True
    return False


def _kinds(part: Any) -> set[str] | None:
    """Return the kinds of a normalizer or pre-tokenizer and of those in it; None for one with Python code."""
    if part is None:
        return set()
    try:
        return set(_types(json.loads(part.__getstate__())))
    except Exception:  # the tokenizers library raises bare Exception
        return None


def _types(description: dict[str, Any]) -> Iterator[str]:
    yield str(description.get("type"))
    for key in ("normalizers", "pretokenizers"):
        for part in description.get(key, ()):
            yield from _types(part)


def _is_of_transformers(method: Callable[..., Any] | None) -> bool:
    return getattr(method, "__module__", "").startswith("transformers.tokenization_utils")


def _name(token: AddedToken, secret: str, index: int) -> str:
    return f"{NO_CUT if token.normalized else CUT}{secret}.{index}{END}"


def _renamed(token: AddedToken, name: str) -> AddedToken:
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )
