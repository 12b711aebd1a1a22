"""Tokenizers of other files than tokenizer.json: built, converted by transformers, or refused in one line."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.prompt.special_tokens import SpecialTokens
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import read_model_info
from pensieve.engine.loading.rank_tokenizer import KIMI_WORDS, Ranks, RankTable, build_tokenizer
from pensieve.engine.loading.tokenizer import load_tokenizer

from ...budget import trials
from ..broken_models import edit

TEXT = "Hello\r\n\n  été 中文 'tis I'LL 12345 <|im_end|> 👩‍👧 ab\tcd"


def tiktoken_ids(ranks: Ranks, word: bytes) -> list[int]:
    """The rule by which tiktoken makes tokens of a word, written as it is stated."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[place : place + 1] for place in range(len(word))]
    while True:
        unions = [(ranks.get(left + right), place) for place, (left, right) in enumerate(pairwise(parts))]
        known = [(rank, place) for rank, place in unions if rank is not None]
        if not known:
            return [ranks[part] for part in parts]
        _, place = min(known)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@st.composite
def rank_tables(draw: st.DrawFn) -> Ranks:
    """Single bytes, then unions of two tokens of those that come before, as training makes them."""
    words = [b"a", b"b", b"c", b" "]
    for _ in range(draw(st.integers(0, 12))):
        words.append(draw(st.sampled_from(words)) + draw(st.sampled_from(words)))
    others = [bytes([byte]) for byte in range(256)]
    return {word: rank for rank, word in enumerate(dict.fromkeys([*others, *words]))}


@settings(max_examples=trials(100, 1000), deadline=None)
@given(rank_tables(), st.lists(st.text("abc", min_size=1, max_size=20), max_size=5))
def test_words_are_cut_as_tiktoken_cuts_them(ranks: Ranks, words: list[str]) -> None:
    tokenizer = build_tokenizer(RankTable(ranks, r"\S+|\s+", {}))
    expected = [tiktoken_ids(ranks, part.encode()) for part in re.findall(r"\S+|\s+", " ".join(words))]
    ids = tokenizer.encode(" ".join(words)).ids
    assert ids == [token for part in expected for token in part]
    assert tokenizer.decode(ids) == " ".join(words)


def test_kimis_words_are_those_of_its_code() -> None:
    words = build_tokenizer(RankTable({b"a": 0}, KIMI_WORDS, {})).pre_tokenizer.pre_tokenize_str
    spans = [place for _, place in words("Hello世界ab 'tis I'LL12345\r\n\n  été?!\n x")]
    text = "Hello世界ab 'tis I'LL12345\r\n\n  été?!\n x"
    assert [text[begin:end] for begin, end in spans] == [
        *("Hello", "世界", "ab", " '", "tis", " I'LL", "123", "45", "\r\n\n", " ", " été", "?!\n", " x")
    ]


BYTES = {bytes([byte]): byte for byte in range(256)}
PAIRS = {b"he": 256, b"ll": 257, b"hell": 258}
ENDS = {260: "[EOS]", 262: "<|im_end|>"}


# Much as in Mistral's own file.
TEKKEN_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def encoded(word: bytes) -> str:
    return base64.b64encode(word).decode()


def write_tiktoken(folder: Path, code: str = "tokenization_kimi.TikTokenTokenizer") -> None:
    lines = [f"{encoded(word)} {rank}" for word, rank in (BYTES | PAIRS).items()]
    (folder / "tiktoken.model").write_text("\n".join(lines))
    (folder / "tokenizer.json").unlink()
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="TikTokenTokenizer",
        auto_map={"AutoTokenizer": [code, None]},
        added_tokens_decoder={number: {"content": name, "special": True} for number, name in ENDS.items()},
        eos_token="[EOS]",
        bos_token=None,
        pad_token=None,
    )
    edit(folder / "config.json", eos_token_id=None)


def write_tekken(folder: Path, **changes: object) -> None:
    words = [{"rank": rank, "token_bytes": encoded(word)} for word, rank in (BYTES | PAIRS).items()]
    content: dict[str, Any] = {
        "config": {"pattern": TEKKEN_WORDS, "default_vocab_size": 269, "default_num_special_tokens": 10},
        "vocab": [*words, {"rank": 259, "token_bytes": encoded(b"beyond")}],
        "special_tokens": [{"rank": 2, "token_str": "</s>"}, {"rank": 3, "token_str": "[INST]"}],
    }
    (folder / "tekken.json").write_text(json.dumps(content | changes))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    edit(folder / "config.json", eos_token_id=2)


def write_vocabulary(folder: Path, kind: str | None = "Qwen2Tokenizer") -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in tokenizer["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    (folder / "tokenizer.json").unlink()
    added = {str(token.pop("id")): token for token in tokenizer["added_tokens"]}
    edit(folder / "tokenizer_config.json", tokenizer_class=kind, added_tokens_decoder=added)
    edit(folder / "config.json", eos_token_id=None)


def write_sentencepiece(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text("hello the world of tokens\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", eos_token="</s>", bos_token=None)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def load(folder: Path) -> tuple[Any, frozenset[int]]:
    info = read_model_info(folder, "tiny", None, 16)
    return load_tokenizer(info), info.eos_token_ids


SERVED: dict[str, tuple[Callable[[Path], None], int]] = {
    "tiktoken": (write_tiktoken, 260),
    "tekken": (write_tekken, 2),
    "vocabulary and merges": (write_vocabulary, 258),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_tokenizer_of_other_files_is_served(folder: Path, name: str) -> None:
    write, end = SERVED[name]
    write(folder)
    tokenizer, ends = load(folder)
    assert tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False)) == TEXT
    assert end in ends
    assert tokenizer.eos_token_id == end
    special = SpecialTokens(tokenizer)
    tokens, positions = special.encode(*special.escape(TEXT), [5])
    assert tokenizer.decode(tokens) == TEXT
    assert not ends & {*tokens}
    assert positions


def test_ranks_and_names_keep_their_ids(folder: Path) -> None:
    write_tiktoken(folder)
    tokenizer, ends = load(folder)
    assert tokenizer.encode("hell<|im_end|>h<|reserved_token_261|>") == [258, 262, 104, 261]
    assert ends >= {260, 262}
    assert len(tokenizer) == 263


def test_tekkens_words_come_after_its_names(folder: Path) -> None:
    write_tekken(folder)
    tokenizer, _ = load(folder)
    assert tokenizer.encode("[INST]hell o</s>") == [3, 268, 42, 121, 2]
    assert tokenizer.decode([9]) == "<SPECIAL_9>"
    assert len(tokenizer) == 269


def test_a_processors_chat_template_is_the_models(folder: Path) -> None:
    """Mistral Small 3.1 and others have their template in chat_template.json alone."""
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    edit(folder / "tokenizer_config.json", chat_template=None, eos_token=None)
    edit(folder / "config.json", eos_token_id=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    tokenizer, ends = load(folder)
    assert tokenizer.chat_template == template
    assert 258 in ends


def test_sentencepiece_is_served(folder: Path) -> None:
    write_sentencepiece(folder)
    tokenizer, _ = load(folder)
    assert (
        tokenizer.decode(tokenizer.encode("hello world", add_special_tokens=False)).strip() == "hello world"
    )


TEKKEN_CONFIG = {"pattern": r"\S+|\s+", "default_vocab_size": 300, "default_num_special_tokens": 12}

REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "tiktoken of other code": (
        lambda folder: write_tiktoken(folder, "tokenization_new.NewTokenizer"),
        r"tiktoken\.model is of a tokenizer whose rules are only in code \(tokenization_new",
    ),
    "an old tekken": (
        lambda folder: write_tekken(folder, special_tokens=None),
        r"tekken\.json names no special tokens",
    ),
    "a broken tekken": (
        lambda folder: write_tekken(folder, vocab=[{}]),
        r"tekken\.json cannot be read: KeyError",
    ),
    "a tekken of names without end": (
        lambda folder: write_tekken(folder, config=TEKKEN_CONFIG | {"default_num_special_tokens": 10**9}),
        r"tekken\.json cannot be read: a vocabulary of 300 tokens, 1000000000 of a name",
    ),
    "a tekken of infinite size": (
        lambda folder: write_tekken(folder, config=TEKKEN_CONFIG | {"default_vocab_size": float("inf")}),
        r"tekken\.json cannot be read: a vocabulary of inf tokens",
    ),
    "a tekken of negative size": (
        lambda folder: write_tekken(folder, config=TEKKEN_CONFIG | {"default_vocab_size": -1}),
        r"tekken\.json cannot be read: a vocabulary of -1 tokens",
    ),
    "a tekken that knows less than bytes": (
        lambda folder: write_tekken(folder, config=TEKKEN_CONFIG | {"default_vocab_size": 200}),
        r"tekken\.json cannot be read: there is not a token for each byte",
    ),
    "a tekken of one id for two": (
        lambda folder: write_tekken(folder, special_tokens=[{"rank": 12, "token_str": "</s>"}]),
        r"tekken\.json cannot be read: two tokens have the same id",
    ),
    "a tekken of a token without a name": (
        lambda folder: write_tekken(folder, special_tokens=[{"rank": 2, "token_str": None}]),
        r"tekken\.json cannot be read: ValueError",
    ),
    "a token without end": (
        lambda folder: write_tekken(folder, vocab=[{"rank": 0, "token_bytes": "YWFh" * 10_000}]),
        r"tekken\.json cannot be read: a token of more than 10,000 bytes",
    ),
    "an id that is no number": (
        lambda folder: write_tekken(folder, special_tokens=[{"rank": "1", "token_str": "</s>"}]),
        r"tekken\.json cannot be read: an id of a token is no number",
    ),
    "a class that reads no vocabulary": (
        lambda folder: write_vocabulary(folder, "LlamaTokenizer"),
        r"does not read vocab\.json and merges\.txt",
    ),
    "no class": (lambda folder: write_vocabulary(folder, "PreTrainedTokenizerFast"), r"cannot be loaded: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_cannot_be_read_is_refused_in_one_line(folder: Path, name: str) -> None:
    write, message = REFUSED[name]
    write(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
