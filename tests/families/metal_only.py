"""What mlx-lm computes in Metal kernels only, in plain MLX, so that those families run anywhere."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import bitlinear_layers, muse_spark


def replace_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let BitNet and Muse Spark compute in plain MLX what their files have Metal kernels for."""
    monkeypatch.setattr(bitlinear_layers.BitLinear, "execute_matmul_kernel", multiply_ternary)
    replacements = (expert_routing, norm_add_norm, post_expert_norm_combine, pre_norm, qk_norm, qk_norm_rope)
    for function in (*replacements, rms_norm_sigmoid_gate):
        monkeypatch.setattr(muse_spark, function.__name__, function)


def multiply_ternary(layer: Any, x: mx.array, packed: mx.array) -> Any:
    """Multiply by weights of -1, 0 and 1, four in a byte."""
    digits = [((packed >> (2 * place)) & 3).astype(x.dtype) - 1 for place in range(4)]
    weights = mx.concatenate(digits)[: layer.out_features]
    scale = 1 / layer.weight_scale if layer.invert_weight_scales else layer.weight_scale
    return (x @ weights.T) * scale


def qk_norm(
    qkvg: mx.array, *, n_heads: int, n_kv_heads: int, head_dim: int, eps: float, query_scale: float
) -> tuple[mx.array, mx.array]:
    """Norm the heads of queries and keys, the first parts of each row, and scale the queries."""
    count = n_heads + n_kv_heads
    heads = qkvg[..., : count * head_dim].reshape(*qkvg.shape[:-1], count, head_dim)
    normed = mx.fast.rms_norm(heads, None, eps)
    return normed[..., :n_heads, :] * query_scale, normed[..., n_heads:, :]


def qk_norm_rope(
    qkvg: mx.array, *, rope_base: float, offset: int | mx.array, head_dim: int, **settings: Any
) -> list[mx.array]:
    """Norm queries and keys, and rotate them to the positions from `offset` on."""
    return [
        mx.fast.rope(
            heads.swapaxes(1, 2), head_dim, traditional=True, base=rope_base, scale=1.0, offset=offset
        ).swapaxes(1, 2)
        for heads in qk_norm(qkvg, head_dim=head_dim, **settings)
    ]


def rms_norm_sigmoid_gate(x: mx.array, gate: mx.array, *, eps: float) -> Any:
    """Norm the heads of attention's result and gate them; (rows, length, heads times dim)."""
    rows, heads, length, dim = x.shape
    normed = mx.fast.rms_norm(x, None, eps).swapaxes(1, 2)
    return normed.reshape(rows, length, heads * dim) * mx.sigmoid(gate)


def expert_routing(
    logits: mx.array,
    expert_bias: mx.array,
    *,
    top_k: int,
    multiplier: float,
    score_eps: float,
    route_scale: float,
) -> tuple[mx.array, mx.array]:
    """Choose experts by their scores and biases; return them and their weights."""
    scores = mx.sigmoid(logits * multiplier)
    chosen = mx.argsort(-(scores + expert_bias), axis=-1)[..., :top_k]
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    return chosen, weights / (weights.sum(axis=-1, keepdims=True) + score_eps) * route_scale


def post_expert_norm_combine(
    experts: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float
) -> Any:
    """Norm each expert's output, scaled before by `norm_weight`, and sum them by weight."""
    normed = mx.fast.rms_norm(experts * norm_weight, None, eps)
    return (normed * weights[..., None]).sum(axis=-2)


def norm_add_norm(
    branch: mx.array,
    stream: mx.array,
    *,
    alpha: mx.array,
    beta: mx.array,
    post_weight: mx.array | None,
    post_eps: float,
    next_norm: Any,
) -> tuple[mx.array, mx.array | None]:
    """Norm a branch, add it to the stream, and norm the sum for the next layer."""
    scaled = branch if post_weight is None else post_weight * branch
    total = alpha * stream + beta * mx.fast.rms_norm(scaled, None, post_eps)
    return total, None if next_norm is None else pre_norm(total, next_norm, dtype=branch.dtype)


def pre_norm(stream: mx.array, norm: Any, *, dtype: mx.Dtype) -> mx.array:
    """Norm the stream for a layer."""
    return mx.fast.rms_norm(stream, norm.weight, norm.eps).astype(dtype)
