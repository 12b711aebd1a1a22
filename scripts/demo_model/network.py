"""The network in PyTorch, for training alone: a llama whose layers' weights are stacked by kind.

Stacking lets Muon orthogonalise a kind of matrix in one batch. Exported, it is an ordinary llama for
mlx-lm.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
import torch.nn.functional as F  # type: ignore[import-not-found]
from safetensors.torch import load_file, save_file  # type: ignore[import-not-found, unused-ignore]

Weights = dict[str, Any]
Tensors = tuple[Any, ...]
BEFORE_ATTENTION = ("attention_norm", "q", "k", "v")
AFTER_ATTENTION = ("o", "mlp_norm", "gate", "up", "down")
EPSILON = 1e-5
HF_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes, named as in a llama's config.json."""

    hidden_size: int = 256
    num_hidden_layers: int = 6
    intermediate_size: int = 384
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    vocab_size: int = 4096
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6


def init_weights(shape: Shape, spaced: list[tuple[int, int]], device: str) -> Weights:
    """Return random weights.

    spaced: pairs of a token that begins with a space and the same token without it. The two start from one
    vector and differ by a vector that all pairs share. So copying a word from the middle of a sentence to the
    beginning of a string is learned once, not for each word.
    """
    layers, hidden, inner = shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim

    def normal(rows: int, columns: int, scale: float = 1.0) -> Any:
        return torch.randn(layers, rows, columns) * scale / math.sqrt(columns)

    embedding = torch.randn(shape.vocab_size, hidden) * 0.05
    with_space, without = (list(ids) for ids in zip(*spaced, strict=True))
    embedding[with_space] = embedding[without] + torch.randn(hidden) * 0.05
    weights = {
        "embedding": embedding,
        "q": normal(queries, hidden),
        "k": normal(keys, hidden),
        "v": normal(keys, hidden),
        "o": normal(hidden, queries, 0.3),
        "gate": normal(inner, hidden),
        "up": normal(inner, hidden),
        "down": normal(hidden, inner, 0.3),
        "attention_norm": torch.ones(layers, hidden),
        "mlp_norm": torch.ones(layers, hidden),
        "norm": torch.ones(hidden),
    }
    return {name: tensor.to(device).requires_grad_() for name, tensor in weights.items()}


def rms_norm(x: Any, weight: Any) -> Any:
    """Return the root mean square norm of x, in fp32."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight


def rope_tables(shape: Shape, length: int, device: str) -> tuple[Any, Any]:
    """Return cosines and sines of the rotary angles, each (length, head_dim / 2)."""
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Return the rotary embedding of (T, heads, head_dim), halves paired as in Hugging Face's llama."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def project(x: Any, weights: Tensors, angles: Tensors) -> Tensors:
    """Return queries, keys and values (T, heads, 64) of the residual stream x (T, hidden).

    weights: of the norm, queries, keys and values. angles: cosines and sines, each (T, 32).
    """
    norm, q, k, v = weights
    cos, sin = angles
    normed = rms_norm(x, norm)
    queries = rotate(F.linear(normed, q).unflatten(-1, (-1, 64)), cos, sin)
    keys = rotate(F.linear(normed, k).unflatten(-1, (-1, 64)), cos, sin)
    values = F.linear(normed, v).unflatten(-1, (-1, 64))
    return queries.bfloat16(), keys.bfloat16(), values.bfloat16()


def finish(x: Any, attended: Any, weights: Tensors) -> Any:
    """Add the attention's output and then the MLP's to the residual stream.

    weights: of the attention's output, then of the MLP's norm, gate, up and down projections.
    """
    o, norm, gate, up, down = weights
    x = x + F.linear(attended.to(x.dtype), o)
    normed = rms_norm(x, norm)
    return x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)


class Network:
    """Forward pass over rows of one length; linear parts see all tokens flat, so they compile only once."""

    def __init__(self, shape: Shape, weights: Weights, device: str, compiled: bool) -> None:
        self.shape = shape
        self.weights = weights
        self.device = device
        self.tables = rope_tables(shape, shape.max_position_embeddings, device)
        self.project = torch.compile(project) if compiled else project
        self.finish = torch.compile(finish) if compiled else finish

    def hidden(self, tokens: Any) -> Any:
        """Return the last layer's normed output (B * L, hidden) for tokens (B, L)."""
        rows, length = tokens.shape
        w = self.weights
        angles = tuple(table[:length].repeat(rows, 1) for table in self.tables)
        x = w["embedding"][tokens.flatten()]
        for i in range(self.shape.num_hidden_layers):
            before, after = (tuple(w[n][i] for n in names) for names in (BEFORE_ATTENTION, AFTER_ATTENTION))
            q, k, v = (
                part.unflatten(0, (rows, length)).transpose(1, 2) for part in self.project(x, before, angles)
            )
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            attended = attended.transpose(1, 2).reshape(rows * length, -1)
            x = self.finish(x, attended, after)
        return rms_norm(x, w["norm"])

    def loss(self, tokens: Any, places: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        """Return weighted mean loss and plain accuracy of the targets (N,) after the flat places (N,)."""
        logits = F.linear(self.hidden(tokens)[places], self.weights["embedding"]).float()
        losses = F.cross_entropy(logits, targets, reduction="none")
        return (losses * weights).sum() / weights.sum(), (logits.argmax(-1) == targets).float().mean()


def load_weights(weights: Weights, folder: Path) -> None:
    """Overwrite the weights with those of an exported model."""
    saved = load_file(str(folder / "model.safetensors"))
    with torch.no_grad():
        weights["embedding"].copy_(saved["model.embed_tokens.weight"])
        weights["norm"].copy_(saved["model.norm.weight"])
        for kind, name in HF_NAMES.items():
            for layer, tensor in enumerate(weights[kind]):
                tensor.copy_(saved[f"model.layers.{layer}.{name}.weight"])


def export(shape: Shape, weights: Weights, folder: Path, eos: int) -> None:
    """Write config.json, generation_config.json and the weights, rounded to fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    for kind, name in HF_NAMES.items():
        for layer in range(shape.num_hidden_layers):
            tensors[f"model.layers.{layer}.{name}.weight"] = weights[kind][layer]
    rounded = {name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(rounded, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(shape),
        "rms_norm_eps": EPSILON,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "eos_token_id": eos,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"do_sample": False, "eos_token_id": [eos]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
