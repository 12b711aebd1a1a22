"""Reads the facts of a model folder, without reading its weights or running anything from the folder.

What the model keeps, and the size of its vocabulary, are the model's own (`lazy_model`): configs call them by
many names, and some leave them out.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.packing import UNQUANTISED
from ..ranks.rendezvous import Group
from ..step import SamplingParams
from .adapt_weights import read_quantization
from .end_tokens import find_end_tokens
from .json_files import as_dict, read_json, read_optional_json
from .lazy_model import ModelFacts, find_facts, open_model
from .model_error import ModelError, first_line
from .nvfp4 import SETTINGS, is_nvfp4
from .weights import read_weights

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

# What families call the length of a context; "block_size" last, as it means other things elsewhere.
CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "n_positions",
    "n_ctx",
    "seq_length",
    "model_max_length",
    "max_context_length",
    "block_size",
)
DEFAULT_CONTEXT = 4096

MAX_LAYERS = 10_000
"""Far more layers than any model has: mlx-lm makes as many as a config names, before it sees a weight."""

KNOWN_CONTEXTS = {"gemma3": 131_072}
"""Context lengths, by model_type, that neither config nor mlx-lm states: the default of Google's own code."""

RECURRENT_CONTEXT = 131_072
"""Tokens of context for a model without attention, which has no limit of its own."""

# What other families call the sizes of hidden states and of the MLP's wide ones.
HIDDEN_KEYS = ("hidden_size", "n_embd", "d_model", "model_dim", "hidden_dim")
WIDE_KEYS = ("intermediate_size", "ffn_hidden_size", "n_inner", "mlp_hidden_size", "expert_ffn_hidden_size")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The facts of a model folder: plain values, picklable."""

    name: str  # as the user asked for it
    path: Path
    model_type: str
    vocab_size: int  # size of the logits' last axis
    context_length: int  # the model's own limit, tokens
    weight_bytes: int  # in memory, after a cast
    dtype: str  # float32, float16 or bfloat16: KV and, but for a few, activations
    quantization: str | None  # e.g. "4-bit", None for plain weights
    num_layers: int
    kv_bytes_per_token: int  # over all layers; 0 for a model without attention
    activation_bytes_per_token: int  # that a prompt's slice needs for a moment, roughly
    eos_token_ids: frozenset[int]
    default_sampling: SamplingParams  # for requests that set nothing: greedy unless the folder says otherwise
    kv_bits: int  # of an element of KV: UNQUANTISED, 8 or 4
    state_bytes: int = 0  # of one sequence's recurrent state, over all layers; 0 without recurrent layers
    window: int | None = None  # tokens that layers with a window see, the most of them; None without such
    window_bytes_per_token: int = 0  # the part of `kv_bytes_per_token` in layers with a window

    @property
    def kv_type(self) -> str:
        """The type of KV as it is kept, for people to read."""
        if not self.kv_bytes_per_token:
            return "none"
        return self.dtype if self.kv_bits == UNQUANTISED else f"{self.kv_bits}-bit"


def read_model_info(path: Path, name: str, dtype: str | None, kv_bits: int, group: Group = None) -> ModelInfo:
    """Read config, weight headers and tokenizer of a model folder, and check that the model can be served.

    dtype: the type to which floating-point weights will be cast; None keeps each one's own.
    kv_bits: of an element of KV, see EngineConfig.
    group: the ranks over which the model is spread: its sizes are then this rank's part. None for one device.
    Raises ModelError, one line that names the file at fault, or RankError.
    """
    if not path.is_dir():
        raise ModelError(f"no such model folder: {path}")
    config = read_json(path / "config.json")
    _refuse_code(path, config)
    text_config = config | as_dict(config.get("text_config"))
    generation = read_optional_json(path / "generation_config.json")
    read_weights(path)
    model_type = _model_type(path, config)
    _refuse_layers(path, text_config)
    facts = find_facts(open_model(path, group), dtype, kv_bits, CONTEXT_KEYS)
    return ModelInfo(
        name=name,
        path=path,
        model_type=model_type,
        vocab_size=facts.vocab_size,
        context_length=_context_length(path, text_config, model_type, facts),
        weight_bytes=facts.weight_bytes,
        dtype=facts.dtype,
        quantization=_quantization(path, config),
        num_layers=facts.num_layers,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        activation_bytes_per_token=activation_bytes_per_token(text_config, DTYPE_BYTES[facts.dtype]),
        eos_token_ids=find_end_tokens(path, [config, text_config, generation], facts.vocab_size),
        default_sampling=_default_sampling(path, generation),
        kv_bits=kv_bits,
        state_bytes=facts.state_bytes,
        window=facts.window,
        window_bytes_per_token=facts.window_bytes_per_token,
    )


def activation_bytes_per_token(config: dict[str, Any], item_bytes: int) -> int:
    """Return the bytes that a token of a prompt's slice needs while a layer is computed, two layers at once.

    They are its hidden states and the MLP's three wide ones; with experts, one hidden state for each as well.
    """
    hidden = _largest(config, *HIDDEN_KEYS) or 4096
    wide = _largest(config, *WIDE_KEYS) or 4 * hidden
    experts = _largest(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
    wide = max(wide, experts * (_largest(config, "moe_intermediate_size") or wide))
    return 2 * item_bytes * ((4 + 2 * experts) * hidden + 3 * wide)


def _largest(config: dict[str, Any], *keys: str) -> int:
    """Return a size by its first name, the largest one where each layer has its own; 0 where it is untold."""
    for key in keys:
        value = config.get(key)
        sizes = [size for size in (value if isinstance(value, list) else [value]) if isinstance(size, int)]
        if sizes:
            return max(sizes)
    return 0


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse a model that needs its own Python. (`auto_map` alone is harmless: nothing here reads it.)"""
    if (code := config.get("model_file")) is not None:
        raise ModelError(f"{path / 'config.json'} asks to run code of the model ({code!r}): never done")


def _refuse_layers(path: Path, config: dict[str, Any]) -> None:
    """Refuse numbers of layers with which making the model would not end, or would fill the memory."""
    for key, value in config.items():
        if "layer" in key and type(value) is int and value > MAX_LAYERS:
            raise ModelError(f"{path / 'config.json'} names more layers than any model has: {key}")


def _model_type(path: Path, config: dict[str, Any]) -> str:
    model_type = config.get("model_type")
    # mlx-lm imports a module by this name.
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", model_type):
        raise ModelError(f"{path / 'config.json'} has no usable model_type")
    return model_type


def _context_length(path: Path, config: dict[str, Any], model_type: str, facts: ModelFacts) -> int:
    tokenizer_config = read_optional_json(path / "tokenizer_config.json")
    lengths = [
        *(config.get(key) for key in CONTEXT_KEYS),
        KNOWN_CONTEXTS.get(model_type),
        facts.context_length,
        tokenizer_config.get("model_max_length"),
        RECURRENT_CONTEXT if not facts.kv_bytes_per_token else None,
    ]
    # A tokenizer's length is 10^30 where it is not limited.
    return next((length for length in lengths if type(length) is int and 0 < length < 10**8), DEFAULT_CONTEXT)


def _quantization(path: Path, config: dict[str, Any]) -> str | None:
    settings = as_dict(config.get("quantization")) or read_quantization(path)
    if not settings:
        return None
    bits = SETTINGS["bits"] if is_nvfp4(settings) else settings.get("bits")
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
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path / 'generation_config.json'}: {first_line(error)}") from error
