"""Trains the demo model's byte-level BPE so that copying is nearly token for token.

    python -m pensieve.scripts.demo_model.train_tokenizer --corpus corpus.txt

Digits stand alone, escapes are one token, and words are cut the same way with and without a space before
them: BPE first learns words alone; the merges of a space with a frequent first piece come last in rank, so
" command" is one token and "command" another, and what follows either is the same. That is what lets a tiny
model copy.
"""

import argparse
import json
import random
import re
from collections import Counter, abc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.corpus import text_lines
from pensieve.scripts.demo_model.tasks import Result, Say, Tasks
from pensieve.scripts.demo_model.words import Words

PIECES = r"""\\\\["nrt]|\\["\\nrt]|{word}|[0-9]| +|\n|\t|[^A-Za-z0-9 \n\t]"""
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>")
SPACE = "Ġ"  # how byte-level BPE writes a space
NUM_TOKENS = 4096
NUM_SPACED = 800
MAX_POSITIONS = 32768


def bare_tokenizer(word: str) -> Tokenizer:
    """Return an untrained tokenizer that splits words by the given expression."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES.replace("{word}", word)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(documents: abc.Sequence[str]) -> Tokenizer:
    """Learn words, then add the merges of a space with the pieces that most often follow one."""
    tokenizer = bare_tokenizer("[A-Za-z]+")
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS - NUM_SPACED - len(CONTROL) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(documents, trainer)
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    for piece in frequent_first_pieces(tokenizer, documents):
        vocab[SPACE + piece] = len(vocab)
        merges.append([SPACE, piece])
    split = state["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = PIECES.replace("{word}", " ?[A-Za-z]+")
    spaced: Tokenizer = Tokenizer.from_str(json.dumps(state))
    spaced.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    spaced.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return spaced


def frequent_first_pieces(tokenizer: Tokenizer, documents: Iterable[str]) -> list[str]:
    """Return the pieces, of two letters or more, that most often begin a word after a single space."""
    words: Counter[str] = Counter()
    for text in documents:
        words.update(re.findall(r"(?<=[^ ] )[A-Za-z]+", text))
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        first = tokenizer.encode(word).tokens[0]
        if len(first) > 1:
            pieces[first] += count
    return [piece for piece, _ in pieces.most_common(NUM_SPACED)]


def conversations(lines: abc.Sequence[str], num_turns: int) -> Iterator[str]:
    """Yield the tasks' own texts, so that their words are single tokens."""
    rng = random.Random(0)
    tasks = Tasks(rng, Words(rng, lines))
    for _ in range(num_turns):
        turn = tasks.turn()
        parts = [
            step.text if isinstance(step, Say | Result) else json.dumps(step.arguments) for step in turn.steps
        ]
        yield "\n".join([turn.request, *parts])


def write_config(folder: Path) -> None:
    """Write tokenizer_config.json; the chat template is a file of its own."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Train on a corpus (see corpus.py) and write the tokenizer's two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    options = parser.parse_args()
    documents = options.corpus.read_text(encoding="utf-8").split("\f")
    tokenizer = train([*documents, *conversations(text_lines(documents), num_turns=8000)])
    tokenizer.save(str(options.out / "tokenizer.json"))
    write_config(options.out)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
