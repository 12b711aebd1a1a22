"""Finds the tokens that end an answer in a model folder's configs, tokenizer and chat template."""

from pathlib import Path
from typing import Any

from .json_files import as_dict, read_json, read_optional_json
from .model_error import ModelError

# Tokens that end a turn in models whose chat template uses them. Old conversions of a model lack them in the
# list of end tokens, so that the model would go on to write the user's next message.
TURN_ENDS = frozenset({"<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>"})

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
    file = path / "tokenizer.json"
    if not file.exists():
        if (path / "tokenizer.model").exists():
            return set()
        raise ModelError(f"no tokenizer in {path}: tokenizer.json is missing")
    tokenizer = read_json(file)
    added = _added_tokens(tokenizer)
    _check_vocabulary(file, tokenizer, added, vocab_size)
    config = read_optional_json(path / "tokenizer_config.json")
    eos = config.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    template = _chat_template(path, config)
    # In the harmony format <|end|> ends a part of an answer, not the answer.
    turn_ends = TURN_ENDS - {"<|end|>"} if "<|channel|>" in template else TURN_ENDS
    return {token for text, token in added.items() if text == eos or (text in turn_ends and text in template)}


def _added_tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    entries = tokenizer.get("added_tokens") or []
    return {
        entry["content"]: entry["id"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    }


def _check_vocabulary(file: Path, tokenizer: dict[str, Any], added: dict[str, int], vocab_size: int) -> None:
    vocabulary = as_dict(tokenizer.get("model")).get("vocab")
    ids = set(added.values())
    if isinstance(vocabulary, dict):
        ids |= {token for token in vocabulary.values() if type(token) is int}
    elif isinstance(vocabulary, list):
        ids |= set(range(len(vocabulary)))
    beyond = sum(token >= vocab_size for token in ids)
    if beyond > MAX_TOKENS_BEYOND_VOCAB:
        raise ModelError(f"{file} has {len(ids)} tokens, the model {vocab_size}: they do not belong together")


def _chat_template(path: Path, tokenizer_config: dict[str, Any]) -> str:
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8", errors="replace")
    return str(tokenizer_config.get("chat_template") or "")
