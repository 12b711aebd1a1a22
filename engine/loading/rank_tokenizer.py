"""Builds a tokenizer from a table of ranks, as tiktoken reads it, where a folder has no tokenizer.json.

Such a table lists byte strings; the rank of each is its id and its precedence: of all neighbouring parts of a
word, those are merged first whose union has the lowest rank. Where a text is cut into words stands elsewhere:
in Mistral's tekken.json beside the table, for Moonshot's tiktoken.model in code, which never runs. So that
rule stands here.
"""

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from .json_files import MAX_JSON_BYTES, as_dict, read_json, read_optional_json
from .model_error import ModelError

TEKKEN, TIKTOKEN = "tekken.json", "tiktoken.model"

# Of tokenization_kimi.py, the same in Moonlight, Kimi-VL, Kimi-Linear, K2 and K3.
KIMI_WORDS = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# Of tekken.json, whose folders may have no tokenizer_config.json.
USUAL_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

KIMI_CODE = ("tokenization_kimi.", "tokenization_moonshot.")

MAX_NAMED = 100_000
"""Tokens of a name that a folder may have; each is made, whether it is listed or not."""

MAX_WORD_BYTES = 10_000
"""Bytes of a token: every way to make it of two others is tried."""

Ranks = dict[bytes, int]


@dataclass(frozen=True, slots=True)
class RankTable:
    """Everything that a tokenizer is made of."""

    ranks: Ranks  # ids of byte strings
    words: str  # regular expression of what is tokenised by itself
    named: dict[int, AddedToken]  # tokens of a name, such as a turn's end, by their ids


def has_ranks(folder: Path) -> bool:
    """Return whether a folder has a table of ranks."""
    return (folder / TEKKEN).exists() or (folder / TIKTOKEN).exists()


def read_table(folder: Path) -> RankTable:
    """Read the folder's table of ranks. Raises ModelError that names the file at fault."""
    file = folder / (TEKKEN if (folder / TEKKEN).exists() else TIKTOKEN)
    try:
        table = _read_tekken(file) if file.name == TEKKEN else _read_tiktoken(file)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {type(error).__name__} in its table of ranks") from error
    _check(file, table)
    return table


def _check(file: Path, table: RankTable) -> None:
    """Refuse a table that has two tokens of one id, or none for some bytes of a text. Raises ModelError."""
    ids = [*table.ranks.values(), *table.named]
    if not all(type(number) is int and 0 <= number < 2**31 for number in ids):
        raise ModelError(f"{file} cannot be read: an id of a token is no number of a token")
    if len(set(ids)) < len(ids):
        raise ModelError(f"{file} cannot be read: two tokens have the same id")
    if max(map(len, table.ranks), default=0) > MAX_WORD_BYTES:
        raise ModelError(f"{file} cannot be read: a token of more than {MAX_WORD_BYTES:,} bytes")
    if not all(bytes([byte]) in table.ranks for byte in range(256)):
        raise ModelError(f"{file} cannot be read: there is not a token for each byte")


def build_tokenizer(table: RankTable) -> Tokenizer:
    """Build a tokenizer that gives the ids that tiktoken gives."""
    names = {ranked: _as_letters(ranked) for ranked in table.ranks}
    # The library gives an added token the id that its name has in the vocabulary.
    vocabulary = {names[ranked]: rank for ranked, rank in table.ranks.items()}
    vocabulary |= {token.content: number for number, token in table.named.items()}
    # In the order of ranks, every way to make a token of two others; and a whole word's token comes first.
    merges = [
        (names[word[:cut]], names[word[cut:]])
        for word in sorted(table.ranks, key=table.ranks.__getitem__)
        for cut in range(1, len(word))
        if word[:cut] in table.ranks and word[cut:] in table.ranks
    ]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(table.words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([table.named[number] for number in sorted(table.named)])
    return tokenizer


def write_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer of the folder `source`, which has a table of ranks, in files that mlx-lm reads.

    Raises ModelError that names the file at fault.
    """
    table = read_table(source)
    build_tokenizer(table).save(str(target / "tokenizer.json"))
    config = read_optional_json(source / "tokenizer_config.json")
    config = {key: value for key, value in config.items() if key not in ("auto_map", "added_tokens_decoder")}
    names = {token.content for token in table.named.values()}
    defaults = {key: name for key, name in USUAL_NAMES.items() if name in names}
    config = defaults | config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for template in source.glob("*.jinja"):
        shutil.copy(template, target)


def _as_letters(word: bytes) -> str:
    """Write bytes as the tokenizers library does in byte-level vocabularies: a letter each (GPT-2's)."""
    return "".join(LETTERS[byte] for byte in word)


def _letters() -> list[str]:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


LETTERS = _letters()


def _read_tekken(file: Path) -> RankTable:
    content = read_json(file)
    config, entries = content["config"], content.get("special_tokens")
    if not entries:
        raise ModelError(f"{file} names no special tokens: an old version that Pensieve does not read")
    num_named, num_tokens = config["default_num_special_tokens"], config["default_vocab_size"]
    if type(num_named) is not int or type(num_tokens) is not int or not 0 <= num_named <= num_tokens:
        sizes = f"{num_tokens!r:.40} tokens, {num_named!r:.40} of a name"
        raise ModelError(f"{file} cannot be read: a vocabulary of {sizes}")
    # The file may list more byte strings than the model knows.
    words = content["vocab"][: num_tokens - num_named]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] + num_named for entry in words}
    named = {number: _added(f"<SPECIAL_{number}>", {}) for number in _numbers(0, num_named)}
    named |= {entry["rank"]: _added(entry["token_str"], {}) for entry in entries}
    return RankTable(ranks, config["pattern"], named)


def _read_tiktoken(file: Path) -> RankTable:
    config = read_optional_json(file.parent / "tokenizer_config.json")
    code = as_dict(config.get("auto_map")).get("AutoTokenizer")
    code = code[0] if isinstance(code, list) and code else code
    if not str(code).startswith(KIMI_CODE):
        raise ModelError(f"{file} is of a tokenizer whose rules are only in code ({code}), which never runs")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{file} cannot be read: larger than {MAX_JSON_BYTES:,} bytes")
    lines = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
    ranks = {base64.b64decode(word): int(rank) for word, rank in lines}
    known = {int(number): entry for number, entry in as_dict(config.get("added_tokens_decoder")).items()}
    named = {
        number: _added(f"<|reserved_token_{number}|>", as_dict(known.get(number)))
        for number in _numbers(len(ranks), max(known, default=-1) + 1)
    }
    return RankTable(ranks, KIMI_WORDS, named)


def _numbers(start: int, end: int) -> range:
    """Return the ids of tokens of a name. Raises ValueError for more than any tokenizer has."""
    if end - start > MAX_NAMED:
        raise ValueError(f"{end - start} tokens of a name")
    return range(start, end)


def _added(name: str, entry: dict[str, Any]) -> AddedToken:
    content = entry.get("content", name)
    if not isinstance(content, str) or not content:
        raise ValueError("a token without a name")
    flags = {flag: bool(entry.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(content, special=bool(entry.get("special", True)), **flags)
