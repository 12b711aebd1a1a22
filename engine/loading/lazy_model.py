"""Opens a model folder without reading its weights, and finds out what the model keeps of each sequence.

A model that cannot be served is refused here, before its weights are fetched or read: the weight files need
only their headers. Everything here runs in the engine's process.
"""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache

from ...cache.packing import UNQUANTISED
from ..attention.cache_structure import unsupported
from ..attention.paged_model import probe
from ..ranks.model_shards import shard_model
from ..ranks.rendezvous import Group
from .adapt_weights import explain_load, find_classes, find_overrides, read_quantization
from .model_error import ModelError, first_line


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the model that mlx-lm makes of a folder says about itself: plain values."""

    vocab_size: int  # size of the logits' last axis
    num_layers: int
    weight_bytes: int  # in memory, after the cast
    dtype: str  # in which KV is computed; without attention that of most weights
    kv_bytes_per_token: int  # over all layers; 0 for a model without attention
    state_bytes: int  # of one sequence's recurrent state, over all layers; 0 without recurrent layers
    window: int | None  # tokens that layers with a window see, the most of them; None without such layers
    window_bytes_per_token: int  # the part of `kv_bytes_per_token` in layers with a window
    context_length: int | None  # as mlx-lm fills in what the config leaves out; None where neither says


def open_model(path: Path, group: Group = None) -> Any:
    """Make the model of the folder `path`, its weights lazy, and refuse it unless the engine can serve it.

    group: the ranks over which the model is spread; it is then this rank's part. None for one device.
    Raises ModelError, one line, or RankError.
    """
    model = _load_model(path)
    _check_weight_types(path, model)
    _check_caches(model)
    if group is not None:
        shard_model(model, group)
    return model


def find_facts(model: Any, dtype: str | None, kv_bits: int, context_keys: Iterable[str]) -> ModelFacts:
    """Run a model on two tokens without computing anything: shapes tell all. The model loses its weights.

    dtype: the type to which floating-point weights will be cast; None keeps each one's own.
    kv_bits: of an element of KV, see EngineConfig.
    context_keys: names under which a model may keep its context length.
    Raises ModelError, one line.
    """
    put_stand_ins(model, dtype)
    try:
        paged = probe(model, kv_bits)
    except Exception as error:  # what mlx-lm's models raise for shapes that do not fit
        raise ModelError(f"the model cannot be run: {first_line(error)}") from error
    try:
        kv_bytes_per_token = paged.kv_bytes_per_token
    except ValueError as error:
        raise ModelError(f"{error}: leave --kv-bits at {UNQUANTISED}") from error
    if not paged.layers and kv_bits != UNQUANTISED:
        raise ModelError(f"the model keeps no keys and values: leave --kv-bits at {UNQUANTISED}")
    arrays: Any = tree_flatten(model.parameters())
    return ModelFacts(
        vocab_size=paged.vocab_size,
        num_layers=len(model.layers),
        weight_bytes=sum(array.nbytes for _, array in arrays),
        dtype=_type_name(paged.layers[0].shape.dtype if paged.layers else _main_type(arrays)),
        kv_bytes_per_token=kv_bytes_per_token,
        state_bytes=paged.state_bytes,
        window=paged.kept_window,
        window_bytes_per_token=sum(spec.shape.bytes_per_token for spec in paged.windowed),
        context_length=_context_length(model, context_keys),
    )


def cast_weights(model: Any, dtype: str) -> None:
    """Cast all floating-point weights of a model; lazy."""
    model.update(tree_map(lambda array: array.astype(cast_type(array, dtype)), model.parameters()))


def cast_type(array: mx.array, dtype: str | None) -> mx.Dtype:
    """Return the type of a weight after a cast to `dtype`, which None and integers do without."""
    is_cast = dtype is not None and mx.issubdtype(array.dtype, mx.floating)
    target: mx.Dtype = getattr(mx, dtype) if dtype is not None and is_cast else array.dtype
    return target


def put_stand_ins(model: Any, dtype: str | None) -> None:
    """Put one zero, seen in each weight's shape and type, in the place of the weights.

    A model that evaluates something while it runs then neither reads weights nor fills the memory.
    """

    def zeros(array: mx.array) -> mx.array:
        return mx.broadcast_to(mx.zeros((), cast_type(array, dtype)), array.shape)

    model.update(tree_map(zeros, model.parameters()))


def _load_model(path: Path) -> Any:
    said = io.StringIO()
    try:
        # Lazily, so that a cast to another type never holds both copies of the whole model.
        with contextlib.redirect_stdout(said):
            model, _ = mlx_lm.utils.load_model(
                path,
                lazy=True,
                model_config=find_overrides(path),
                get_model_classes=partial(find_classes, settings=read_quantization(path)),
                trust_remote_code=False,
            )
    except Exception as error:  # mlx-lm raises all kinds for a malformed config or checkpoint
        raise ModelError(f"{path} cannot be loaded: {explain_load(path, error)}") from error
    except SystemExit as error:  # mlx-lm's olmo prints what it lacks and ends the process
        reason = " ".join(said.getvalue().split()) or "a package that the model needs is missing"
        raise ModelError(f"{path} cannot be loaded: {reason}") from error
    return model


def _check_weight_types(path: Path, model: Any) -> None:
    """Refuse integers in the place of floats: MLX reads raw fp8 weights as such, and answers would be noise.

    A quantised layer, whose weights are integers, has scales.
    """
    for name, module in model.named_modules():
        weight = module.get("weight")
        has_scales = any("scale" in key for key in module)
        if isinstance(weight, mx.array) and not mx.issubdtype(weight.dtype, mx.floating) and not has_scales:
            kind = _type_name(weight.dtype)
            raise ModelError(
                f"{path} cannot be served: the weights of {name} are {kind} numbers without scales"
                " (such as raw fp8), which stand for nothing; take a conversion for MLX"
            )
        for part in ("scales", "biases"):
            array = module.get(part)
            if isinstance(array, mx.array) and not _may_scale(part, array.dtype):
                kind = _type_name(array.dtype)
                raise ModelError(f"{path} cannot be served: the {part} of {name} are {kind} numbers")


def _may_scale(part: str, dtype: mx.Dtype) -> bool:
    """Whether scales or biases may have a type; scales that are bytes are those of fp4 and fp8."""
    return mx.issubdtype(dtype, mx.floating) or (part == "scales" and dtype == mx.uint8)


def _check_caches(model: Any) -> None:
    """Refuse a model whose caches are not all of a kind that is supported."""
    if others := unsupported(make_prompt_cache(model)):
        raise ModelError(f"this model needs {', '.join(others)}; not supported yet")


def _main_type(arrays: list[tuple[str, mx.array]]) -> mx.Dtype:
    """Return the floating-point type of most bytes; of quantised weights, that of their scales."""
    sizes: dict[mx.Dtype, int] = {}
    for _, array in arrays:
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[array.dtype] = sizes.get(array.dtype, 0) + array.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=mx.float16)


def _type_name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def _context_length(model: Any, keys: Iterable[str]) -> int | None:
    """Return the first context length among the arguments from which mlx-lm made the model's modules."""
    arguments = [args for module in model.modules() if (args := getattr(module, "args", None)) is not None]
    lengths = (getattr(args, key, None) for args in arguments for key in keys)
    return next((length for length in lengths if type(length) is int and length > 0), None)
