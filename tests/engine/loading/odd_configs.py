"""Configs whose keys have unusual names, or whose KV is not what the usual keys say."""

from typing import Any

from ...models import WINDOW

HIDDEN, HEADS, KV_HEADS, DIM, VOCAB = 64, 4, 2, 32, 512

ORDINARY: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "qk_nope_head_dim": 32,
    "num_key_value_heads": HEADS,
    "head_dim": None,
}

# Configs whose keys have other names, or whose KV is not what the usual keys say; and floats of KV a token.
ODD: dict[str, tuple[dict[str, Any], int, int]] = {
    "exaone": (
        {
            "num_layers": 4,
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": VOCAB,
            "layer_norm_epsilon": 1e-5,
            "rope_theta": 10000,
            "max_position_embeddings": 2048,
        },
        4 * KV_HEADS * 2 * 16,
        2048,
    ),
    "dbrx": (
        {
            "d_model": HIDDEN,
            "n_layers": 4,
            "n_heads": HEADS,
            "vocab_size": VOCAB,
            "max_seq_len": 2048,
            "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8, "rope_theta": 10000},
        },
        4 * KV_HEADS * 2 * 16,
        2048,
    ),
    "gpt2": (
        {
            "n_ctx": 1024,
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_layer": 4,
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": VOCAB,
        },
        4 * HEADS * 2 * 16,
        1024,
    ),
    "gptj": (
        {
            "n_embd": HIDDEN,
            "vocab_size": VOCAB,
            "layer_norm_epsilon": 1e-5,
            "n_positions": 2048,
            "n_head": HEADS,
            "rotary_dim": 8,
            "n_layer": 4,
        },
        4 * HEADS * 2 * 16,
        2048,
    ),
    "phixtral": (
        {
            "num_vocab": VOCAB,
            "vocab_size": VOCAB,
            "model_dim": HIDDEN,
            "num_heads": HEADS,
            "num_layers": 4,
            "rotary_dim": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
        },
        4 * HEADS * 2 * 16,
        8192,  # the tokenizer's
    ),
    "lille-130m": (
        {
            "block_size": 512,
            "n_layer": 4,
            "n_head": HEADS,
            "n_kv_heads": KV_HEADS,
            "n_embd": HIDDEN,
            "vocab_size": VOCAB,
            "rope_theta": 1e4,
            "layer_norm_eps": 1e-5,
        },
        4 * KV_HEADS * 2 * 16,
        512,
    ),
    "openelm": (
        {
            "head_dim": DIM,
            "num_transformer_layers": 4,
            "model_dim": HIDDEN,
            "vocab_size": VOCAB,
            "ffn_dim_divisor": 64,
            "num_query_heads": [4, 4, 6, 6],
            "num_kv_heads": [1, 1, 2, 2],
            "ffn_multipliers": [0.5, 1.0, 2.0, 2.0],
            "max_context_length": 2048,
        },
        6 * 2 * DIM,
        2048,
    ),
    "step3p5": (
        ORDINARY
        | {
            "num_attention_groups": 2,
            "num_key_value_heads": None,
            "rope_theta": [1e4] * 4,
            "sliding_window": WINDOW,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5],
            "use_head_wise_attn_gate": True,
            "attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 2},
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "moe_intermediate_size": 64,
            "share_expert_dim": 64,
            "moe_layers_enum": "1,2,3",
        },
        4 * 2 * 2 * DIM,
        2048,
    ),
    "gemma4_text": (
        ORDINARY
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": WINDOW,
            "sliding_window_pattern": 4,
            "global_head_dim": 64,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
        },
        3 * KV_HEADS * 2 * DIM + KV_HEADS * 2 * 64,
        2048,
    ),
    "nemotron-nas": (
        ORDINARY
        | {
            "block_configs": [
                {"attention": {"n_heads_in_group": heads}, "ffn": {"ffn_mult": 1.0}} for heads in (2, 4, 2, 4)
            ]
        },
        (2 + 1 + 2 + 1) * 2 * 16,
        2048,
    ),
    # Heads of keys have 48 elements here, of values 32 or what the hidden state leaves for a head.
    "deepseek_v2": (
        ORDINARY
        | LATENT
        | {
            "moe_intermediate_size": 64,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "rope_scaling": {
                "type": "yarn",
                "factor": 4,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 1024,
            },
        },
        4 * HEADS * (48 + 32),
        2048,
    ),
    "youtu_llm": (ORDINARY | LATENT, 4 * HEADS * (48 + 32), 2048),
    "minicpm3": (
        ORDINARY
        | LATENT
        | {
            "dim_model_base": HIDDEN,
            "scale_depth": 1.4,
            "scale_emb": 1.0,
            "rope_scaling": {
                "type": "longrope",
                "long_factor": [1.0] * 8,
                "short_factor": [1.0] * 8,
                "original_max_position_embeddings": 4096,
            },
        },
        4 * HEADS * (48 + HIDDEN // HEADS),
        2048,
    ),
    "mimo_v2_flash": (
        ORDINARY
        | {
            "num_experts_per_tok": 2,
            "hybrid_layer_pattern": [0, 1, 0, 1],
            "moe_layer_freq": [0, 1, 1, 1],
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "sliding_window_size": WINDOW,
            "moe_intermediate_size": 64,
            "n_shared_experts": None,
            "n_routed_experts": 4,
            "routed_scaling_factor": 1.0,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "n_group": 1,
            "topk_group": 1,
            "layernorm_epsilon": 1e-5,
            "swa_rope_theta": 1e4,
            "swa_num_attention_heads": HEADS,
            "swa_num_key_value_heads": KV_HEADS,
            "head_dim": 48,
            "v_head_dim": 32,
            "swa_head_dim": 48,
            "swa_v_head_dim": 32,
            "partial_rotary_factor": 0.5,
        },
        4 * KV_HEADS * (48 + 32),
        2048,
    ),
}
