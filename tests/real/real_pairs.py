"""Tiny random models with real tokenizers and real chat templates, as folders that the server can load."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ..budget import EVERYTHING
from ..models import write_model
from .templates_on_disk import REASON, data_folder, read_template

# Templates, each with its own tokenizer or that of a model nearby.
PAIRS = {
    "Qwen-Qwen3-0.6B": "qwen3",
    "mistralai-Mistral-Nemo-Instruct-2407": "tekken",
    "Mistral-Small-3.2-24B-Instruct-2506": "tekken",
    "openai-gpt-oss-120b": "gptoss",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3_1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek_v3",
    "google-gemma-2-2b-it": "gemma3",
    "mistralai-Ministral-3-14B-Reasoning-2512": "tekken",
    "Qwen3.5-4B": "qwen3",
}
TEKKEN = "tekken_240911.json"

# The package's table lists no special tokens: its code names them, in the order of their ids.
TEKKEN_MARKS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *("[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]"),
]


def pairs(sample: int) -> list[Any]:
    """List the pairs whose data is there, or some of them; one skipped entry where there is none."""
    there = [pair for pair in PAIRS.items() if (data_folder() / "tokenizers" / pair[1]).exists()]
    some = there if EVERYTHING and sample > len(PAIRS) else there[:sample]
    return list(some) or [pytest.param("none", "none", marks=pytest.mark.skip(reason=REASON))]


def write_pair(folder: Path, template: str, tokenizer: str) -> Path:
    """Write a tiny llama with a real tokenizer and template into `folder`."""
    source = data_folder() / "tokenizers" / tokenizer
    settings: dict[str, Any] = {}
    if tokenizer == "tekken":
        num_tokens, special = 131_072, {"<s>": 1, "</s>": 2}
    else:
        content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        vocabulary = content["model"]["vocab"]
        num_tokens = max(len(vocabulary), *special.values()) + 1
    write_model(folder, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, vocab=num_tokens)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    if tokenizer == "tekken":
        table = json.loads((source / TEKKEN).read_text(encoding="utf-8"))
        table["special_tokens"] = [
            {"rank": i, "token_str": mark, "is_control": True} for i, mark in enumerate(TEKKEN_MARKS)
        ]
        (folder / "tekken.json").write_text(json.dumps(table))
    else:
        shutil.copy(source / "tokenizer.json", folder)
        settings.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(read_template(template), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    config |= {"bos_token_id": _id(special, settings, "bos"), "eos_token_id": _id(special, settings, "eos")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _id(special: dict[str, int], settings: dict[str, Any], kind: str) -> int | None:
    """Return the id of the token that begins or ends a text; None where the tokenizer has none."""
    usual = {"bos": "<s>", "eos": "</s>"}[kind]
    token = settings.get(f"{kind}_token", usual)
    return special.get(token["content"] if isinstance(token, dict) else token)
