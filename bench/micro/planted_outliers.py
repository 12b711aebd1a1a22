"""A llama with outliers in its keys and values, as real models have them, that computes the same function.

The demo model's channels are all of a size. In real models some channels of the keys are many times the
others, and some have a large mean (KIVI, Liu et al., 2024; KVQuant, Hooper et al., 2024). Here a channel of
the keys is scaled up and the query's down; both of the pair that rope turns, so that rope commutes with it.
A channel of the values is scaled up and the output projection's column down. A mean is a vector added to all
keys after rope: it changes all scores of a query alike, and softmax not at all.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from .coded_cache import CodedCache, KeyFrame, KVCoding
from .kv_codings import Exact

KEY_PAIRS, KEY_FACTOR = 2, 10.0
VALUE_CHANNELS, VALUE_FACTOR = 2, 4.0
MEAN_PAIRS, MEAN = 2, 10.0
"""Outliers of a head; a mean in deviations of the head's keys."""


def scale_channels(model: Any) -> None:
    """Plant channels that are larger than others in each head of a llama's keys and values."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        attention = layer.self_attn
        num_heads, num_kv_heads = attention.n_heads, attention.n_kv_heads
        dim = attention.k_proj.weight.shape[0] // num_kv_heads
        key_factors = np.ones((num_kv_heads, dim), np.float32)
        value_factors = np.ones((num_kv_heads, dim), np.float32)
        for head in range(num_kv_heads):
            pairs = rng.choice(dim // 2, KEY_PAIRS, replace=False)
            key_factors[head, [*pairs, *(pairs + dim // 2)]] = KEY_FACTOR
            value_factors[head, rng.choice(dim, VALUE_CHANNELS, replace=False)] = VALUE_FACTOR
        shared = num_heads // num_kv_heads
        attention.k_proj.weight *= mx.array(key_factors.reshape(-1, 1))
        attention.q_proj.weight /= mx.array(key_factors.repeat(shared, axis=0).reshape(-1, 1))
        attention.v_proj.weight *= mx.array(value_factors.reshape(-1, 1))
        attention.o_proj.weight /= mx.array(value_factors.repeat(shared, axis=0).reshape(1, -1))


def key_frames(model: Any, tokens: list[int], with_means: bool) -> list[KeyFrame]:
    """Return each layer's frame: means planted or none, and what `tokens` and the weights say of its keys."""
    rng = np.random.default_rng(6)
    seen = keys_of(model, tokens)
    frames = []
    for layer, keys in zip(model.layers, seen, strict=True):
        shift = np.zeros((keys.shape[0], 1, keys.shape[2]), np.float32)
        for head, deviation in enumerate(keys.std(axis=(1, 2))):
            pairs = rng.choice(keys.shape[2] // 2, MEAN_PAIRS, replace=False)
            places = [*pairs, *(pairs + keys.shape[2] // 2)]
            shift[head, 0, places] = rng.choice([-1, 1], len(places)) * MEAN * deviation * with_means
        centre = keys.mean(axis=1, keepdims=True) + shift
        frames.append(KeyFrame(mx.array(shift), mx.array(centre), mx.array(balance(layer))))
    return frames


def keys_of(model: Any, tokens: list[int]) -> list[Any]:
    """Return each layer's keys of some text, (num_kv_heads, tokens, dim), after rope."""
    zero, one = mx.zeros((1, 1, 1)), mx.ones((1, 1, 1))
    caches = [CodedCache(KVCoding(Exact(), Exact()), KeyFrame(zero, zero, one)) for _ in model.layers]
    mx.eval(model(mx.array([tokens]), cache=caches))
    return [np.array(cache.kept[0][0]) for cache in caches]


def balance(layer: Any) -> Any:
    """Return factors, (num_kv_heads, 1, dim), by which keys divided and queries multiplied are alike in size.

    From the weights alone: a channel is as large as the norm of the row that makes it, for inputs of equal
    channels after the norm. What is left of the error in a score is then least (as SmoothAttention in QServe,
    Lin et al., 2024, arXiv 2405.04532, which goes by the keys' size). Both of rope's pairs have one factor.
    """
    attention, gain = layer.self_attn, np.array(layer.input_layernorm.weight)
    num_kv_heads = attention.n_kv_heads

    def sizes(weight: Any, shape: tuple[int, ...]) -> Any:
        squares = np.square(np.array(weight) * gain).sum(axis=1).reshape(shape)
        return squares[..., 0, :] + squares[..., 1, :]

    keys = sizes(attention.k_proj.weight, (num_kv_heads, 2, -1))
    queries = sizes(attention.q_proj.weight, (num_kv_heads, attention.n_heads // num_kv_heads, 2, -1))
    factors = np.sqrt(np.sqrt(keys / queries.mean(axis=1)))
    return np.concatenate([factors, factors], axis=1)[:, None].astype(np.float32)
