"""Finds the tokens that end an answer in a model folder's configs, tokenizer and chat template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .json_files import as_dict, read_json, read_optional_json
from .model_error import ModelError
from .rank_tokenizer import has_ranks, read_table

# Tokens that end a turn in models whose chat template uses them. Old conversions of a model lack them in the
# list of end tokens, so that the model would go on to write the user's next message.
TURN_ENDS = frozenset(
    {
        *("<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>", "<|call|>"),
        *("<turn|>", "<|tool_response>"),  # Gemma 4: the second begins a result, which is the client's
        "<|observation|>",  # GLM's, which begins a result
    }
)

# How many more tokens a tokenizer may have than the model has embeddings: special ones, never in prompts.
MAX_TOKENS_BEYOND_VOCAB = 16


def find_end_tokens(path: Path, configs: list[dict[str, Any]], vocab_size: int) -> frozenset[int]:
    """Return all ids that end an answer, from config, generation config and tokenizer. Raises ModelError."""
    ids: set[int] = set()
    for config in configs:
        value = config.get("eos_token_id")
        ids |= {token for token in (value if isinstance(value, list) else [value]) if type(token) is int}
    ids |= _tokenizer_end_tokens(path, vocab_size)
    return frozenset(token for token in ids if 0 <= token < vocab_size)


def _tokenizer_end_tokens(path: Path, vocab_size: int) -> set[int]:
    config = read_optional_json(path / "tokenizer_config.json")
    vocabulary = _read_vocabulary(path, config)
    if vocabulary is None:
        return set()
    vocabulary.check(vocab_size)
    eos = config.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    template = read_chat_template(path, config)
    # In the harmony format <|end|> ends a part of an answer, not the answer.
    turn_ends = TURN_ENDS - {"<|end|>"} if "<|channel|>" in template else TURN_ENDS
    return {
        token
        for text, token in vocabulary.added.items()
        if text == eos or (text in turn_ends and text in template)
    }


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of a tokenizer's file."""

    file: Path
    added: dict[str, int]  # ids of the tokens that are no part of its model
    ids: set[int]  # of all tokens

    def check(self, vocab_size: int) -> None:
        """Refuse a tokenizer that has far more tokens than the model has embeddings."""
        if sum(token >= vocab_size for token in self.ids) > MAX_TOKENS_BEYOND_VOCAB:
            raise ModelError(
                f"{self.file} has {len(self.ids)} tokens, the model {vocab_size}: they do not belong together"
            )


def _read_vocabulary(path: Path, config: dict[str, Any]) -> _Vocabulary | None:
    """Read the tokens of the folder's tokenizer; None for sentencepiece's, which transformers converts."""
    if (file := path / "tokenizer.json").exists():
        tokenizer = read_json(file)
        added = _added_tokens(tokenizer.get("added_tokens"))
        ids = _ids(as_dict(tokenizer.get("model")).get("vocab"))
        return _Vocabulary(file, added, ids | {*added.values()})
    if has_ranks(path):
        table = read_table(path)
        added = {token.content: number for number, token in table.named.items()}
        return _Vocabulary(path, added, {*table.ranks.values(), *table.named})
    if (path / "tokenizer.model").exists():
        return None
    if (file := path / "vocab.json").exists() and (path / "merges.txt").exists():
        entries = as_dict(config.get("added_tokens_decoder")).items()
        added = _added_tokens([as_dict(entry) | {"id": _number(key)} for key, entry in entries])
        return _Vocabulary(file, added, _ids(read_json(file)) | {*added.values()})
    raise ModelError(f"no tokenizer in {path}: tokenizer.json is missing")


def _added_tokens(entries: object) -> dict[str, int]:
    return {
        entry["content"]: entry["id"]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    }


def _ids(vocabulary: object) -> set[int]:
    """Return the ids of a vocabulary, an object of ids by tokens or a list of tokens."""
    if isinstance(vocabulary, dict):
        return {token for token in vocabulary.values() if type(token) is int}
    return set(range(len(vocabulary))) if isinstance(vocabulary, list) else set()


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def read_chat_template(path: Path, tokenizer_config: dict[str, Any]) -> str:
    """Return the text of the folder's chat template, from the first of three files; empty without one."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return str(tokenizer_config.get("chat_template") or read_processor_template(path) or "")


def read_processor_template(path: Path) -> str | None:
    """Return the chat template that older models of pictures keep beside those of their tokenizer."""
    template = read_optional_json(path / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None
