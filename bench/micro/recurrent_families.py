"""Configurations of small models of the recurrent families, each with four layers."""

from typing import Any

Configs = dict[str, dict[str, Any]]

VOCAB = 1000
"""Tokens of the vocabularies: small, as the recurrent layers are measured."""


def family_configs(hidden: int) -> Configs:
    """Return each family's config.json with four layers of width `hidden`, a multiple of 256."""
    base = {
        "hidden_size": hidden,
        "num_hidden_layers": 4,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 256,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    }
    families = _delta_families(hidden) | _state_space_families(hidden) | _other_families(hidden)
    return {family: base | own for family, own in families.items()}


def _delta_families(hidden: int) -> Configs:
    """Return the families of the delta rule: a decay for each head, and one for each element of its keys."""
    qwen3_next = {
        "linear_num_value_heads": hidden // 64,
        "linear_num_key_heads": hidden // 128,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
        "partial_rotary_factor": 0.5,
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": hidden,
        "moe_intermediate_size": hidden,
    }
    delta_attention = {
        "num_heads": hidden // 64,
        "head_dim": 128,
        "kda_layers": [1, 2, 3],
        "full_attn_layers": [4],
        "short_conv_kernel_size": 4,
    }
    kimi_linear = {
        "linear_attn_config": delta_attention,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "model_max_length": 4096,
        "num_experts": 0,
        "moe_intermediate_size": hidden,
    }
    return {"qwen3_next": qwen3_next, "kimi_linear": kimi_linear}


def _state_space_families(hidden: int) -> Configs:
    """Return Mamba 2, Mamba, and Jamba without experts."""
    mamba2 = {
        "num_heads": hidden // 32,
        "state_size": 128,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 2,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": 32,
        "rms_norm": True,
        "chunk_size": 64,
    }
    mamba = {
        "state_size": 16,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": hidden // 16,
    }
    jamba = {
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "attn_layer_offset": 1,
        "attn_layer_period": 4,
        "expert_layer_offset": 1,
        "expert_layer_period": 9,
        "num_experts": 1,
        "num_experts_per_tok": 1,
    }
    return {"mamba2": mamba2, "mamba": mamba, "jamba": jamba}


def _other_families(hidden: int) -> Configs:
    """Return RWKV-7, RG-LRU, lightning attention and short convolutions."""
    low_ranks = ("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim")
    recurrent_gemma = {
        "block_types": ["recurrent", "recurrent", "attention"],
        "conv1d_width": 4,
        "attention_bias": False,
        "logits_soft_cap": 30.0,
        "attention_window_size": 512,
    }
    bailing = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "first_k_dense_replace": 4,
        "layer_group_size": 4,
        "group_norm_size": 2,
    }
    lfm2 = {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": hidden,
        "block_ff_dim": 2 * hidden,
        "block_multiple_of": 64,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [3],
    }
    return {
        "rwkv7": dict.fromkeys(low_ranks, 32) | {"norm_eps": 1e-5},
        "recurrent_gemma": recurrent_gemma,
        "bailing_moe_linear": bailing,
        "lfm2": lfm2,
    }
