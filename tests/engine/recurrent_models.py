"""Tiny models with recurrent layers, of random weights: a family of mlx-lm for each kind of state."""

from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

VOCAB = 512

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

WINDOW = 40

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

GATED_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_next": GATED_DELTA
    | EXPERTS
    | {
        "full_attention_interval": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "partial_rotary_factor": 0.5,
        "norm_topk_prob": True,
    },
    "nemotron_h": {
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "n_groups": 2,
        "mamba_proj_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, 100.0],
        "num_hidden_layers": 5,
        "hybrid_override_pattern": "M*M-E",
        "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "mamba": {
        "state_size": 8,
        "num_hidden_layers": 3,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 96,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "head_dim": None,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "rwkv7": {
        "norm_eps": 1e-5,
        "num_hidden_layers": 3,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "recurrent_gemma": {
        "attention_bias": False,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": WINDOW,
        "num_key_value_heads": 1,
        "block_types": ["recurrent", "recurrent", "attention"],
        "head_dim": None,
    },
    "bailing_moe_linear": EXPERTS
    | {
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "first_k_dense_replace": 1,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "num_key_value_heads": 4,
        "n_group": 1,
        "topk_group": 1,
    },
    "falcon_h1": {
        "attention_bias": False,
        "num_hidden_layers": 3,
        "mamba_d_ssm": 64,
        "mamba_d_state": 16,
        "mamba_d_head": 16,
        "mamba_n_heads": 4,
        "mamba_n_groups": 1,
        "mamba_d_conv": 4,
    },
}


def recurrent_model(kind: str, scale: float = 0.3, seed: int = 0) -> Any:
    """Make a float32 model of the family `kind`. Matrices are normal with `scale`."""
    mx.random.seed(seed)
    config = {"model_type": kind} | {k: v for k, v in (BASE | CONFIGS[kind]).items() if v is not None}
    model_class, args_class = mlx_lm.utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(mx.float32)
    rng = np.random.default_rng(seed)
    parameters: Any = tree_flatten(model.parameters())
    drawn = [
        (name, array if array.ndim == 1 else mx.array(scale * rng.standard_normal(array.shape, np.float32)))
        for name, array in parameters
    ]
    model.update(tree_unflatten(drawn))
    model.eval()
    mx.eval(model.parameters())
    return model
