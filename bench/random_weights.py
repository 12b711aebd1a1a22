"""Configurations and weights of the comparison's random models, by the names that mlx-lm gives them."""

from typing import Any

import numpy as np

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
NUM_BYTES = 256
VOCABULARY = 8192
SCALE = 0.35  # with less, a random model repeats one token for ever

Array = np.ndarray[Any, Any]
Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Any] = {
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

CONFIGS: dict[str, dict[str, Any]] = {
    "attention": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"} | _COMMON,
    "hybrid": {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "full_attention_interval": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "partial_rotary_factor": 0.25,
        "num_experts": 0,  # dense layers: none of the keys below matters
        "num_experts_per_tok": 0,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 0,
        "moe_intermediate_size": 0,
        "mlp_only_layers": [],
    }
    | _COMMON,
}
"""By the kind of the model's layers; in the hybrid three of four are recurrent, by the gated delta rule."""


def random_weights(kind: str, seed: int) -> dict[str, Array]:
    """Return the weights of a kind of model; norms are one.

    The rows of the output for bytes and special tokens are zero.
    """
    rng, config = np.random.default_rng(seed), CONFIGS[kind]
    hidden = config["hidden_size"]

    def draw(shape: tuple[int, ...]) -> Array:
        return SCALE * rng.standard_normal(shape, dtype=np.float32)

    weights = {
        "model.embed_tokens.weight": draw((VOCABULARY, hidden)),
        "lm_head.weight": draw((VOCABULARY, hidden)),
    }
    weights["lm_head.weight"][: NUM_BYTES + len(SPECIAL_TOKENS)] = 0
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    for layer in range(config["num_hidden_layers"]):
        is_recurrent = bool((layer + 1) % config.get("full_attention_interval", 1))
        drawn, ones = _recurrent(config) if is_recurrent else _attention(config)
        prefix = f"model.layers.{layer}."
        weights |= {prefix + name: draw(shape) for name, shape in (drawn | _mlp(config)).items()}
        ones |= {f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        weights |= {prefix + name: np.ones(shape, np.float32) for name, shape in ones.items()}
    return weights


def _attention(config: dict[str, Any]) -> tuple[Shapes, Shapes]:
    """Return the shapes of the attention's weights: those that are drawn, and those that are one."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    is_gated = config["model_type"] == "qwen3_next"
    drawn: Shapes = {
        "self_attn.q_proj.weight": (2 * queries if is_gated else queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
    }
    return drawn, {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}


def _recurrent(config: dict[str, Any]) -> tuple[Shapes, Shapes]:
    """Return the shapes of a gated delta layer's weights: those that are drawn, and those that are one."""
    hidden, num_values = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = num_values * config["linear_value_head_dim"]
    drawn: Shapes = {
        "linear_attn.in_proj_qkvz.weight": (2 * keys + 2 * values, hidden),
        "linear_attn.in_proj_ba.weight": (2 * num_values, hidden),
        "linear_attn.conv1d.weight": (2 * keys + values, config["linear_conv_kernel_dim"], 1),
        "linear_attn.A_log": (num_values,),
        "linear_attn.out_proj.weight": (hidden, values),
    }
    ones: Shapes = {
        "linear_attn.dt_bias": (num_values,),
        "linear_attn.norm.weight": (config["linear_value_head_dim"],),
    }
    return drawn, ones


def _mlp(config: dict[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
