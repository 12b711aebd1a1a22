"""Texts that are cut at special tokens have the ids of the whole text, or are not cut."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from pensieve.api.prompt.special_tokens import SpecialTokens

from ...budget import sampled, trials
from .. import tokenizers
from ..templates import NO_TOOLS

SHAPES = {
    "qwen": tokenizers.qwen,
    "llama_3": tokenizers.llama_3,
    "phi_3": tokenizers.phi_3,
    "phi_4": tokenizers.phi_4,
    "llama_2": tokenizers.llama_2,
    "unigram": tokenizers.unigram,
    "tiktoken": tokenizers.tiktoken,
    "demo": tokenizers.demo,
}
NAMES = sampled(SHAPES, SHAPES.keys() - {"tiktoken"})  # which takes five seconds to make
MARKS = (
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|end|>",
        "<|user|>",
        "<|eot_id|>",
        "<tool_call>",
        "</tool_call>",
        "<s>",
    ),
    *("<|im_start|", "<|", "|>", "<", ">", "im_end|>", "<0x0A>", "▁"),
)
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\u200b")
WORDS = (
    "system\n",
    "user",
    "end",
    "a",
    "e",
    "é",
    "\u0301",
    "ﬁ",
    "😀",
    "你好",
    "1",
    "23",
    "'s",
    ".",
    "?!",
    "\x00",
    "\x01",
    "\ufdd0",
)
pieces = st.one_of(
    st.sampled_from(MARKS), st.sampled_from(SPACES), st.sampled_from(WORDS), st.text(max_size=3)
)
texts = st.lists(pieces, max_size=16).map("".join)


@cache
def shape(name: str) -> Any:
    return SHAPES[name]()


@cache
def special_tokens(name: str) -> SpecialTokens:
    return SpecialTokens(shape(name))


@cache
def uncut(name: str) -> SpecialTokens:
    uncut = SpecialTokens(shape(name))
    uncut._cache = None
    return uncut


def whole_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_real_shapes_are_cut(name: str) -> None:
    renamed = special_tokens(name)._renamed
    assert special_tokens(name)._cache is not None
    assert renamed is not None
    first, second, *_ = renamed.names.values()
    assert renamed.segments(f"a{first}b{second}{first}") == ["a", f"{first}b", second, first]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=trials(20, 50), deadline=None)
@given(parts=st.tuples(texts, texts, texts, texts))
def test_edited_and_continued_conversations_have_the_ids_of_the_whole(
    name: str, parts: tuple[str, ...]
) -> None:
    head, middle, edited, end = parts
    for text in (head + middle, head + middle + end, head + edited + end, head, end + head):
        assert special_tokens(name).encode(text, "").tokens == whole_ids(shape(name), text)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=trials(12, 30), deadline=None)
@given(
    template=st.lists(st.sampled_from(MARKS[:8]), min_size=1, max_size=5),
    contents=st.lists(texts, max_size=5),
)
def test_segments_with_special_tokens_as_text_have_the_ids_of_the_whole(
    name: str, template: list[str], contents: list[str]
) -> None:
    cut, whole = special_tokens(name), uncut(name)
    escaped, separator = cut.escape(contents)
    rendered = "".join(part for pair in zip(template, escaped, strict=False) for part in pair)
    assert cut.encode(rendered, separator).tokens == whole.encode(rendered, separator).tokens


flags = st.fixed_dictionaries(
    {name: st.booleans() for name in ("lstrip", "rstrip", "special")}
    | {name: st.sampled_from([False] * 5 + [True]) for name in ("normalized", "single_word")}
)
contents = st.one_of(
    st.sampled_from(MARKS[:8]),
    st.sampled_from(["<s", "s>", "<a> ", " <a>", "<a>", "<a>b", "b<", "|><s", "<"]),
    st.sampled_from(["[é]", "<ﬁ>", "<fi>", "  ", "\n", "end", "\x01", "a\x01"]),
)
NORMALIZERS = (
    None,
    normalizers.Sequence([]),
    normalizers.NFC(),
    normalizers.NFKC(),
    normalizers.Lowercase(),
    normalizers.Prepend("▁"),
    normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    normalizers.Replace(Regex(" +"), "▁"),
    normalizers.Nmt(),
)
PRE_TOKENIZERS = (
    None,
    pre_tokenizers.ByteLevel(add_prefix_space=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    pre_tokenizers.Metaspace(prepend_scheme="first"),
    pre_tokenizers.Metaspace(prepend_scheme="always"),
    pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    pre_tokenizers.Metaspace(prepend_scheme="never"),
    pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]),
    pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    ),
    pre_tokenizers.Split(Regex(r"\s+(?!\S)|\S+"), behavior="merged_with_next"),
    pre_tokenizers.FixedLength(3),
    pre_tokenizers.UnicodeScripts(),
    pre_tokenizers.BertPreTokenizer(),
)


@st.composite
def tokenizers_and_texts(draw: st.DrawFn) -> tuple[Any, str]:
    """A tokenizer with random added tokens, and a text that is full of them."""
    added = draw(st.dictionaries(contents, flags, min_size=1, max_size=6))
    model = draw(st.sampled_from(["unigram", "llama_2", "qwen", "llama_3"]))
    backend = Tokenizer(shape(model).backend_tokenizer.model)
    backend.normalizer = draw(st.sampled_from(NORMALIZERS))
    backend.pre_tokenizer = draw(st.sampled_from(PRE_TOKENIZERS))
    backend.add_tokens([AddedToken(content, **chosen) for content, chosen in added.items()])
    own = st.sampled_from(list(added))
    parts = draw(st.lists(st.one_of(own, own, st.sampled_from(SPACES), contents, pieces), max_size=20))
    return tokenizers.wrapped(backend, NO_TOOLS, next(iter(added))), "".join(parts)


@settings(max_examples=trials(80, 200), deadline=None)
@given(tokenizers_and_texts())
def test_no_combination_of_flags_changes_an_id(pair: tuple[Any, str]) -> None:
    tokenizer, text = pair
    try:
        expected = whole_ids(tokenizer, text)
        special = SpecialTokens(tokenizer)
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            return  # the library fails at some odd tokens
        raise
    assert special.encode(text, "").tokens == expected


def is_cut(backend: Tokenizer, pre_tokenizer: Any = None) -> bool:
    tokenizer = tokenizers.wrapped(backend, NO_TOOLS, "<|im_end|>")
    if pre_tokenizer is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    return SpecialTokens(tokenizer)._cache is not None


def test_a_tokenizer_that_may_look_beyond_a_cut_is_not_cut() -> None:
    def backend(*added: AddedToken) -> Tokenizer:
        backend = Tokenizer.from_str(shape("demo").backend_tokenizer.to_str())
        backend.add_tokens(list(added))
        return backend

    assert is_cut(backend(AddedToken("<a>", lstrip=True, rstrip=True)))
    assert not is_cut(backend(AddedToken("<a>", single_word=True)))
    assert not is_cut(backend(AddedToken("x<|im", normalized=False)))  # hides the beginning of <|im_end|>
    assert not is_cut(backend(AddedToken("a<|im_end|>b", normalized=False)))
    lowercase = backend(AddedToken("<a>", normalized=True))
    lowercase.normalizer = normalizers.Lowercase()  # <A> becomes <a>
    assert not is_cut(lowercase)
    random = backend()
    random.model.dropout = 0.5
    assert not is_cut(random)
    assert is_cut(backend(), pre_tokenizers.Whitespace())
    assert not is_cut(backend(), pre_tokenizers.PreTokenizer.custom(Splitter()))


class Splitter:
    """A pre-tokenizer in Python, which sees all stretches of a text at once."""

    def pre_tokenize(self, text: Any) -> None:
        """Split nothing."""


def test_a_class_that_encodes_in_its_own_way_is_not_cut() -> None:
    tokenizer = tokenizers.demo()
    inner = tokenizer._tokenizer

    class Own(type(inner)):  # type: ignore[misc]
        def _encode_plus(self, text: str, **options: Any) -> Any:
            return super()._encode_plus(text.strip(), **options)

    inner.__class__ = Own
    assert SpecialTokens(tokenizer)._cache is None
