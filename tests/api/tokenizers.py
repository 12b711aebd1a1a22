"""Tokenizers in the shapes that real model families have, trained here on a few lines."""

import itertools
import json
import string
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .templates import NO_TOOLS, SYSTEM_THEN_TOOLS, TOOLS_WITH_USER

DEMO = Path(__file__).parents[2] / "engine" / "demo" / "model"

CORPUS = [
    "The quick brown fox jumps over the lazy dog; you are an assistant that writes user and system code.",
    'def main(end: str) -> int:\n    return {"name": "tool_call", "start": im_end}\n',
    "Grüße aus der Ferne: naïve café, 你好世界, مرحبا 😀\n\n\tend of text <b>bold</b> [INST] list [/INST]",
] * 3

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
)

O200K_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen() -> Any:
    """Byte-level, composes characters; its tags of tool calls are added tokens that are not special."""
    tokenizer = _byte_level()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tags = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tags])
    return wrapped(tokenizer, SYSTEM_THEN_TOOLS, "<|im_end|>", json.loads)


def llama_3() -> Any:
    """Byte-level, with hundreds of special tokens, one of which begins every prompt."""
    tokenizer = _byte_level()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([*special, *(f"<|reserved_special_token_{i}|>" for i in range(246))])
    return wrapped(tokenizer, "{{- '<|begin_of_text|>' }}" + TOOLS_WITH_USER, "<|eot_id|>")


def phi_3() -> Any:
    """SentencePiece's: a space before each piece, bytes as <0x0A>; special tokens swallow space."""
    tokenizer = _sentence_piece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    tokenizer.add_special_tokens([AddedToken(token, rstrip=True, normalized=False) for token in special])
    return wrapped(tokenizer, NO_TOOLS, "<|end|>")


def llama_2() -> Any:
    """SentencePiece's as well, with a space at the head of the text only."""
    tokenizer = _sentence_piece()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return wrapped(tokenizer, NO_TOOLS, "</s>")


def phi_4() -> Any:
    """Byte-level; special tokens swallow space on both sides."""
    tokenizer = _byte_level()
    special = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_sep|>",
        "<|im_end|>",
        "<|system|>",
        "<|user|>",
        "<|end|>",
    )
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True) for token in special])
    return wrapped(tokenizer, NO_TOOLS, "<|im_end|>")


def unigram() -> Any:
    """SentencePiece's other model, with a space before each word and bytes for what it does not know."""
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    description = json.loads(tokenizer.to_str())
    description["model"]["vocab"] += [[f"<0x{i:02X}>", -20.0] for i in range(256)]
    description["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "  ")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return wrapped(tokenizer, NO_TOOLS, "</s>")


def tiktoken() -> Any:
    """Byte-level with 150,000 tokens: all words of two letters, and most of those of four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = string.ascii_lowercase
    merges = list(itertools.product(letters, letters))
    pairs = ["".join(pair) for pair in merges]
    merges += itertools.islice(itertools.product(["Ġ", *pairs], pairs), 150_000 - len(alphabet) - len(merges))
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(O200K_WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>"])
    return wrapped(tokenizer, NO_TOOLS, "<|end|>")


def demo() -> Any:
    """The bundled model's own."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    return wrapped(tokenizer, (DEMO / "chat_template.jinja").read_text(), "<|im_end|>", json.loads)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentence_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    heads = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=heads, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Back from JSON with three special tokens: the trainer has made all bytes special.
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = description["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.normalizer = None
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def wrapped(tokenizer: Tokenizer, template: str, eos: str, tool_parser: Any = None) -> Any:
    """Wrap it as mlx-lm's loader does."""
    wrapper: Any = PreTrainedTokenizerFast  # carries no types
    fast = wrapper(tokenizer_object=tokenizer, eos_token=eos, clean_up_tokenization_spaces=False)
    fast.chat_template = template
    call = {"tool_call_start": "<tool_call>", "tool_call_end": "</tool_call>", "tool_parser": tool_parser}
    return TokenizerWrapper(fast, **(call if tool_parser else {}))
