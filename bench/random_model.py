"""Writes the random model that the comparison serves, the same bytes from the same seed, without a download.

    python -m pensieve.bench.random_model FOLDER

A qwen3 of six million parameters in float32. Every server must generate the same number of tokens, so the
model never ends an answer: its output rows for the special tokens are zero, and of eight thousand other
logits some is always above zero. The rows of single bytes are zero too, so that answers are ASCII and each
token is text at once: no server holds half a character back.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .filler_words import CONSONANTS, VOWELS
from .report import write_json

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
NUM_BYTES = 256
VOCABULARY = 8192
SCALE = 0.35  # with less, a random model repeats one token for ever

Array = np.ndarray[Any, Any]

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nAnswer with <tool_call>{"name": ..., "arguments": ...}</tool_call> to call one.\\n' }}
{%- if messages[0].role == 'system' %}{{- '\\n' + messages[0].content }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
    "bos_token_id": NUM_BYTES,
    "pad_token_id": NUM_BYTES,
    "eos_token_id": NUM_BYTES + 2,
    "torch_dtype": "float32",
}


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write config, tokenizer and weights into `folder`, unless it holds a model; return the folder."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", CONFIG)
        write_tokenizer(folder)
        save_file(random_weights(seed), weights, metadata={"format": "mlx"})
    return folder


def random_weights(seed: int) -> dict[str, Array]:
    """Return the weights by their names in mlx-lm; norms are one."""
    rng = np.random.default_rng(seed)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    head = CONFIG["head_dim"]
    queries, keys = CONFIG["num_attention_heads"] * head, CONFIG["num_key_value_heads"] * head

    def draw(rows: int, columns: int) -> Array:
        return SCALE * rng.standard_normal((rows, columns), dtype=np.float32)

    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    weights = {
        "model.embed_tokens.weight": draw(VOCABULARY, hidden),
        "lm_head.weight": draw(VOCABULARY, hidden),
    }
    weights["lm_head.weight"][: NUM_BYTES + len(SPECIAL_TOKENS)] = 0
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights |= {f"{prefix}{name}.weight": draw(*shape) for name, shape in matrices.items()}
        weights |= {f"{prefix}{name}.weight": np.ones(size, np.float32) for name, size in norms.items()}
    return weights


def write_tokenizer(
    folder: Path, vocabulary: int = VOCABULARY, max_context: int = CONFIG["max_position_embeddings"]
) -> None:
    """Write a byte-level BPE tokenizer of `vocabulary` tokens.

    They are bytes, special tokens, syllables, words of two syllables, and as many words of three as fit.
    """
    ids, merges = make_vocabulary(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def make_vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids of `size` tokens, and merges.

    Words are tokens, so that an answer's text has the answer's tokens.
    """
    merges = list(itertools.product(CONSONANTS, VOWELS))
    syllables = ["".join(pair) for pair in merges]
    merges += [("Ġ", syllable) for syllable in syllables]
    merges += itertools.product([f"Ġ{syllable}" for syllable in syllables], syllables)
    words = ["Ġ" + first + second for first, second in itertools.product(syllables, syllables)]
    longer = itertools.product(words, syllables)
    single = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS]
    merges = list(itertools.islice(itertools.chain(merges, longer), size - len(single)))
    tokens = [*single, *("".join(merge) for merge in merges)]
    return {token: index for index, token in enumerate(tokens)}, merges


def main() -> None:
    """Write the model into the folder that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_model(options.folder, options.seed))


if __name__ == "__main__":
    main()
