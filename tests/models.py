"""Writes tiny random-weight model folders, so that tests need no download.

The weights are normal with a scale of 0.35: a model with the default initialisation repeats one token for
ever, which hid real bugs (a corrupted KV cache answered the same as a sound one).
"""

import itertools
import json
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import mlx_lm.utils
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

LETTERS = "etaoinshrdlucmfw"

Weights: TypeAlias = dict[str, Any]

WINDOW = 40
"""Tokens that a layer with a window sees in these models; not a multiple of a block."""

LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]

# What architectures with windows need in their config beside the ordinary.
WINDOWED: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window_pattern": 2, "query_pre_attn_scalar": 32},
    "gpt_oss": {"layer_types": LAYER_TYPES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "cohere2": {"sliding_window_pattern": 2, "head_dim": 16},
    "olmo3": {"layer_types": LAYER_TYPES},
    "ministral3": {
        "layer_types": LAYER_TYPES,
        "rope_parameters": {
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        },
    },
    "exaone4": {"layer_types": LAYER_TYPES, "sliding_window_pattern": "LG", "rope_scaling": None},
    "gemma4_text": {
        "layer_types": LAYER_TYPES,
        "global_head_dim": 64,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
    "plamo3": {"window_size": WINDOW, "sliding_window_pattern": 2},
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_model(
    folder: Path,
    model_type: str = "llama",
    hidden: int = 64,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    vocab: int = 512,
    seed: int = 0,
    letters: str = LETTERS,
) -> Path:
    """Write a float32 model (llama, qwen3, gemma3_text, …) with a byte-level tokenizer into `folder`.

    Phi-3 has no `head_dim` of its own: there it is hidden / heads. vocab: at least 259.
    letters: those of which the tokenizer has pairs.
    """
    config = {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads if model_type == "phi3" else head_dim,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "pad_token_id": 256,
        "eos_token_id": 258,
        "torch_dtype": "float32",
    }
    if model_type in WINDOWED:
        config |= {"sliding_window": WINDOW} | WINDOWED[model_type]
    return write_folder(folder, config, random_weights(config, seed), vocab, letters)


def write_folder(
    folder: Path, config: dict[str, Any], weights: Weights, vocab: int, letters: str = LETTERS
) -> Path:
    """Write a model of given weights with a byte-level tokenizer of at most `vocab` tokens into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_tokenizer(folder, vocab, letters)
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def random_weights(
    config: dict[str, Any], seed: int, scale: float = 0.35, vector_noise: float = 0.0
) -> Weights:
    """Make the named weights that the model of `config` needs.

    scale: the standard deviation of matrices.
    vector_noise: that of what is added to vectors, such as norms and biases, which MLX has filled.
    """
    model_class, args_class = mlx_lm.utils._get_classes(config)
    rng = np.random.default_rng(seed)
    mx.random.seed(seed)
    weights: Weights = {}
    parameters: Any = tree_flatten(model_class(args_class.from_dict(config)).parameters())
    for name, initial in parameters:
        if not mx.issubdtype(initial.dtype, mx.floating):
            weights[name] = _random_codes(np.array(initial), rng)
            continue
        drawn = rng.standard_normal(initial.shape, dtype=np.float32)
        is_kept = initial.ndim < 2 and not name.endswith("sinks")
        new = np.array(initial, dtype=np.float32) + vector_noise * drawn if is_kept else scale * drawn
        weights[name] = np.asarray(new, np.float16 if initial.dtype == mx.float16 else np.float32)
    return weights


def _random_codes(initial: np.ndarray[Any, Any], rng: np.random.Generator) -> Any:
    """Draw packed weights: words of quantised ones, bytes of four ternary ones; keep other integers."""
    if initial.dtype == np.uint32:
        return rng.integers(0, 2**32, initial.shape, dtype=np.uint32)
    if initial.dtype == np.uint8:
        digits = rng.integers(0, 3, (4, *initial.shape), dtype=np.uint8)
        return digits[0] | digits[1] << 2 | digits[2] << 4 | digits[3] << 6
    return initial


def write_tokenizer(folder: Path, vocab: int, letters: str) -> None:
    """Write a byte-level BPE tokenizer: ids 0-255 bytes, 256-258 special, the rest pairs of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*alphabet, *SPECIAL_TOKENS])}
    pairs = itertools.product(letters, letters)
    merges = list(itertools.islice(pairs, vocab - len(ids)))
    ids |= {first + second: len(ids) + index for index, (first, second) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 8192,
        },
    )


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def build_random(folder: Path, num_blocks: int, on_host: bool) -> tuple[Runner, None]:
    """Make the runner of a model that `write_model` wrote, for an engine's process."""
    return Runner(probe(mlx_lm.utils.load_model(folder)[0], 16), Capacity(num_blocks), on_host), None
