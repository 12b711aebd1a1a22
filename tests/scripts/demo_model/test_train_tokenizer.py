"""The shipped tokenizer keeps what copying needs."""

import random

import pytest
from tokenizers import Tokenizer

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.train_tokenizer import CONTROL, TAGS
from pensieve.scripts.demo_model.words import Words


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    loaded: Tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    return loaded


@pytest.mark.parametrize(
    "text", [*CONTROL, *TAGS, *"0123456789", r"\"", r"\n", r"\\", r"\\n", "\n", "\t", '"']
)
def test_marks_digits_and_escapes_are_one_token(tokenizer: Tokenizer, text: str) -> None:
    assert len(tokenizer.encode(text).ids) == 1


def test_a_word_is_cut_alike_with_and_without_a_space_before_it(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    words = Words(rng, ["Some words of real text."])
    for _ in range(500):
        name = words.coined()
        bare, spaced = tokenizer.encode(name).tokens, tokenizer.encode("a " + name).tokens[1:]
        joined = spaced[1:] if spaced[0] == "Ġ" else [spaced[0].removeprefix("Ġ"), *spaced[1:]]
        assert joined == bare


def test_text_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    words = Words(rng, ["    Some words of real text.", "\tx = 'ü'"])
    for _ in range(300):
        text = "\n".join(words.block(5)) + words.noise(5, 40)
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
