"""Real chat templates, as scripts/real_data.py fetches them, and small tokenizers that have their marks."""

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
REASON = "real templates were not fetched: run scripts/real_data.py"

MARKS = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<[|｜][^<>\s]{1,40}[|｜]>|\[/?[A-Z_]{3,20}\]"  # noqa: RUF001  (DeepSeek's)
    r"|<\|[a-z_]{2,24}>|<[a-z_]{2,24}\|>"  # Gemma 4's
    r"|</?(?:mm:think|tool_call|think|tool_response|s|eos|bos|end_of_turn|start_of_turn|seed:[a-z_]+)>"
    r"|</?[a-z_]+:opensource>"
)
BOS, EOS = "<BOS>", "<EOS>"
UNNAMED = ("<|tool_call_start|>", "<|tool_call_end|>")  # marks of LFM2 that its templates do not name
SUFFIX = ":opensource"  # which Hy3's template gives to all of its marks


def data_folder() -> Path:
    """Return the folder of the fetched data, which may be missing."""
    found = runpy.run_path(str(ROOT / "scripts" / "real_data.py"))["cache_folder"]()
    return Path(found)


def template_names() -> list[Any]:
    """List the real templates; one skipped entry where there are none."""
    names = sorted(path.stem for path in (data_folder() / "llama.cpp").glob("*.jinja"))
    return list(names) or [pytest.param("none", marks=pytest.mark.skip(reason=REASON))]


def read_template(name: str) -> str:
    return (data_folder() / "llama.cpp" / f"{name}.jinja").read_text(encoding="utf-8")


def small_tokenizer(template: str) -> Any:
    """Make a tokenizer of bytes whose special tokens are the template's, wrapped as mlx-lm's loader does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = template.replace("{}", SUFFIX) if SUFFIX in template else template
    unnamed = UNNAMED if "List of tools: " in template else ()
    marks = sorted({*MARKS.findall(named), *unnamed, BOS, EOS})
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    wrapper: Any = PreTrainedTokenizerFast  # carries no types
    fast = wrapper(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return wrap(fast)


def wrap(fast: Any) -> Any:
    """Wrap a tokenizer with the parser of tool calls that mlx-lm infers from its template."""
    utils: Any = importlib.import_module("mlx_lm.tokenizer_utils")
    kind = utils._infer_tool_parser(fast)
    if kind is None:
        return TokenizerWrapper(fast)
    parser: Any = importlib.import_module(f"mlx_lm.tool_parsers.{kind}")
    return TokenizerWrapper(
        fast,
        tool_parser=parser.parse_tool_call,
        tool_call_start=parser.tool_call_start,
        tool_call_end=parser.tool_call_end,
    )
