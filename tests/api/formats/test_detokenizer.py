"""Pieces of text join to the whole, for tokenizers of each kind and for any tokens."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pensieve.api.formats.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
)

from ...fakes import ByteTokenizer
from ..builders import new_detokenizer


@cache
def byte_level() -> Any:
    """A byte-level BPE tokenizer, as GPT-2, Llama 3 and Qwen have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)} | {"ab": 256, "Ġa": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<|mark|>"), AddedToken("<two words>")])
    return wrap(tokenizer)


@cache
def sentence_piece() -> Any:
    """A SentencePiece-like tokenizer with byte fallback, as Llama 2 and Phi-3 have."""
    events = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "é", "▁the", "▁▁", "\n", "😀"]
    tokenizer = Tokenizer(models.BPE(vocab={event: i for i, event in enumerate(events)}, merges=[]))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrap(tokenizer)


def wrap(tokenizer: Tokenizer) -> Any:
    untyped: Any = PreTrainedTokenizerFast
    return untyped(tokenizer_object=tokenizer)


def join(detokenizer: Detokenizer, tokens: list[int]) -> str:
    return "".join([*(detokenizer.add([token]) for token in tokens), detokenizer.flush()])


@given(st.lists(st.integers(0, 259)))
def test_byte_level_pieces_join_to_the_tokenizers_own_text(tokens: list[int]) -> None:
    detokenizer = new_detokenizer(byte_level())
    assert isinstance(detokenizer, ByteDetokenizer)
    assert join(detokenizer, tokens) == byte_level().decode(tokens, clean_up_tokenization_spaces=False)


@given(st.text())
def test_sentence_pieces_join_to_the_text_they_stand_for(text: str) -> None:
    """Around invalid bytes the library turns valid characters into U+FFFD as well; this does not."""
    tokenizer = sentence_piece()
    tokens = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
    tokens = [tokenizer.convert_tokens_to_ids("▁the"), *tokens]
    detokenizer = new_detokenizer(tokenizer)
    assert isinstance(detokenizer, ByteDetokenizer)
    assert join(detokenizer, tokens) == "the" + text == tokenizer.decode(tokens)


@given(st.lists(st.integers(0, 262)))
def test_window_pieces_join_to_the_tokenizers_own_text(tokens: list[int]) -> None:
    tokenizer = ByteTokenizer()
    detokenizer = new_detokenizer(tokenizer)
    assert isinstance(detokenizer, WindowDetokenizer)
    assert join(detokenizer, tokens) == tokenizer.decode(tokens)


@given(st.text(), st.integers(1, 7))
def test_no_piece_of_valid_text_holds_a_replacement_character(text: str, size: int) -> None:
    for tokenizer in (ByteTokenizer(), byte_level()):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        detokenizer = new_detokenizer(tokenizer)
        events = [detokenizer.add(part) for part in chunks(tokens, size)] + [detokenizer.flush()]
        assert "".join(events) == text
        assert all("\ufffd" not in event for event in events) or "\ufffd" in text


def test_a_nul_byte_stays_a_nul_byte() -> None:
    """mlx-lm's streaming detokenizer shows 'Ā' for it, since its table's value 0 counts as missing there."""
    tokens = byte_level().encode("a\x00b", add_special_tokens=False)
    assert join(new_detokenizer(byte_level()), tokens) == "a\x00b"


def test_ids_past_the_vocabulary_stand_for_nothing() -> None:
    assert join(new_detokenizer(byte_level()), [5000]) == ""


@pytest.mark.parametrize("text", ["<|mark|>", "<two words>"])
def test_added_tokens_are_plain_text(text: str) -> None:
    tokens = byte_level().encode(text, add_special_tokens=False)
    assert len(tokens) == 1
    assert join(new_detokenizer(byte_level()), tokens) == text


def chunks(tokens: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


@given(st.lists(st.integers(0, 255)), st.lists(st.integers(0, 255)), st.lists(st.integers(0, 255)))
def test_a_copy_goes_on_by_itself(before: list[int], one: list[int], other: list[int]) -> None:
    for tokenizer in (ByteTokenizer(), byte_level()):
        detokenizer = new_detokenizer(tokenizer)
        text = detokenizer.add(before)
        copy = detokenizer.copy()
        assert text + copy.add(one) + copy.flush() == join(new_detokenizer(tokenizer), [*before, *one])
        text += detokenizer.add(other) + detokenizer.flush()
        assert text == join(new_detokenizer(tokenizer), [*before, *other])
