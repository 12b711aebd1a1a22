"""Reads the facts that a model folder states, without MLX and without running anything from the folder."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.packing import UNQUANTISED, row_bytes
from ..step import SamplingParams
from .end_tokens import find_end_tokens
from .json_files import as_dict, read_json, read_optional_json
from .model_error import ModelError, first_line
from .weights import ITEM_BYTES, TensorHeader, read_weights

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "seq_length")
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The facts that a model's folder states: plain values, picklable. The loader corrects some of them."""

    name: str  # as the user asked for it
    path: Path
    model_type: str
    vocab_size: int  # size of the logits' last axis
    context_length: int  # the model's own limit, tokens
    weight_bytes: int  # in memory, after a cast
    dtype: str  # float32, float16 or bfloat16: activations and KV, as far as the folder tells
    quantization: str | None  # e.g. "4-bit", None for plain weights
    num_layers: int
    kv_bytes_per_token: int
    activation_bytes_per_token: int  # that a prompt's slice needs for a moment, roughly
    eos_token_ids: frozenset[int]
    default_sampling: SamplingParams  # for requests that set nothing: greedy unless the folder says otherwise
    kv_bits: int  # of an element of KV: UNQUANTISED, 8 or 4

    @property
    def kv_type(self) -> str:
        """The type of KV as it is kept, for people to read."""
        return self.dtype if self.kv_bits == UNQUANTISED else f"{self.kv_bits}-bit"


def read_model_info(path: Path, name: str, dtype: str | None, kv_bits: int) -> ModelInfo:
    """Read config, weight headers and tokenizer of a model folder, and check that they belong together.

    dtype: the type to which floating-point weights will be cast; None keeps each one's own.
    kv_bits: of an element of KV, see EngineConfig.
    Raises ModelError, one line that names the file at fault.
    """
    if not path.is_dir():
        raise ModelError(f"no such model folder: {path}")
    config = read_json(path / "config.json")
    _refuse_code(path, config)
    text_config = config | as_dict(config.get("text_config"))
    generation = read_optional_json(path / "generation_config.json")
    tensors = read_weights(path)
    weight_bytes = _weight_bytes(tensors, None if dtype is None else DTYPE_BYTES[dtype])
    dtype = dtype or _checkpoint_dtype(tensors)
    vocab_size = _positive(path, text_config, "vocab_size")
    num_layers = _positive(path, text_config, "num_hidden_layers")
    return ModelInfo(
        name=name,
        path=path,
        model_type=_model_type(path, config),
        vocab_size=vocab_size,
        context_length=_context_length(path, text_config),
        weight_bytes=weight_bytes,
        dtype=dtype,
        quantization=_quantization(config),
        num_layers=num_layers,
        kv_bytes_per_token=kv_bytes_per_token(text_config, DTYPE_BYTES[dtype], kv_bits),
        activation_bytes_per_token=activation_bytes_per_token(text_config, DTYPE_BYTES[dtype]),
        eos_token_ids=find_end_tokens(path, [config, text_config, generation], vocab_size),
        default_sampling=_default_sampling(path, generation),
        kv_bits=kv_bits,
    )


def kv_bytes_per_token(config: dict[str, Any], item_bytes: int, kv_bits: int) -> int:
    """Return the bytes of one token's keys and values over all layers of an ordinary attention model.

    Raises ModelError for heads that cannot be quantised.
    """
    heads = int(config.get("num_attention_heads") or 1)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    try:
        head_bytes = row_bytes(head_dim, kv_bits, item_bytes)
    except ValueError as error:
        raise cannot_quantise(error) from error
    return int(config["num_hidden_layers"]) * kv_heads * 2 * head_bytes


def activation_bytes_per_token(config: dict[str, Any], item_bytes: int) -> int:
    """Return the bytes that a token of a prompt's slice needs while a layer is computed, two layers at once.

    They are its hidden states and the MLP's three wide ones; with experts, one hidden state for each as well.
    """
    hidden = _largest(config, "hidden_size") or 4096
    wide = _largest(config, "intermediate_size") or 4 * hidden
    experts = _largest(config, "num_experts_per_tok") or _largest(config, "moe_topk")
    wide = max(wide, experts * (_largest(config, "moe_intermediate_size") or wide))
    return 2 * item_bytes * ((4 + 2 * experts) * hidden + 3 * wide)


def _largest(config: dict[str, Any], key: str) -> int:
    """Return a size, the largest one where each layer has its own; 0 where the config does not tell it."""
    value = config.get(key)
    sizes = value if isinstance(value, list) else [value]
    return max((size for size in sizes if isinstance(size, int)), default=0)


def cannot_quantise(error: ValueError) -> ModelError:
    """Make the error for the user from the error of a Packing."""
    return ModelError(f"{error}: leave --kv-bits at {UNQUANTISED}")


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse a model that needs its own Python. (`auto_map` alone is harmless: nothing here reads it.)"""
    if (code := config.get("model_file")) is not None:
        raise ModelError(f"{path / 'config.json'} asks to run code of the model ({code!r}): never done")


def _model_type(path: Path, config: dict[str, Any]) -> str:
    model_type = config.get("model_type")
    # mlx-lm imports a module by this name.
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", model_type):
        raise ModelError(f"{path / 'config.json'} has no usable model_type")
    return model_type


def _positive(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ModelError(f"{path / 'config.json'}: {key} is missing or not a positive number")
    return value


def _context_length(path: Path, config: dict[str, Any]) -> int:
    given = [config[key] for key in CONTEXT_KEYS if type(config.get(key)) is int and config[key] > 0]
    if given:
        return int(given[0])
    limit = read_optional_json(path / "tokenizer_config.json").get("model_max_length")
    return limit if type(limit) is int and 0 < limit < 10**8 else DEFAULT_CONTEXT


def _checkpoint_dtype(tensors: dict[str, TensorHeader]) -> str:
    """Return the floating-point type of most bytes: in quantised weights, that of scales and norms."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in DTYPES:
            sizes[tensor.dtype] += tensor.num_bytes
    return DTYPES[sizes.most_common(1)[0][0]] if sizes else "float16"


def _weight_bytes(tensors: dict[str, TensorHeader], float_bytes: int | None) -> int:
    sizes = (
        tensor.num_bytes // ITEM_BYTES[tensor.dtype] * float_bytes
        if tensor.dtype in DTYPES and float_bytes
        else tensor.num_bytes
        for tensor in tensors.values()
    )
    return sum(sizes)


def _quantization(config: dict[str, Any]) -> str | None:
    settings = as_dict(config.get("quantization")) or as_dict(config.get("quantization_config"))
    if not settings:
        return None
    bits = settings.get("bits")
    return f"{bits}-bit" if isinstance(bits, int) else str(settings.get("quant_method", "quantized"))


def _default_sampling(path: Path, generation: dict[str, Any]) -> SamplingParams:
    if not generation.get("do_sample"):
        return SamplingParams()
    try:
        return SamplingParams(
            temperature=float(generation.get("temperature") or 1.0),
            top_p=float(generation.get("top_p") or 1.0),
            top_k=int(generation.get("top_k") or 0),
            min_p=float(generation.get("min_p") or 0.0),
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path / 'generation_config.json'}: {first_line(error)}") from error
