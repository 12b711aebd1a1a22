"""Families with delta rules, convolutions and other states in the place of keys and values."""

from .family import (
    ABSENT,
    CONTEXT,
    DELTA,
    HEADS,
    HIDDEN,
    LATENT,
    LAYERS,
    SLIDING,
    VOCAB,
    WINDOW,
    Family,
    experts,
    nested,
    shared_experts,
    text,
)

CONV_AND_FULL = ["conv", "full_attention", "conv", "full_attention"]

QWEN3_5 = text(
    **DELTA,
    full_attention_interval=4,
    head_dim=32,
    partial_rotary_factor=0.5,
    rope_parameters={
        "type": "default",
        "mrope_section": [4, 2, 2],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
)
QWEN3_5_EXPERTS = experts(shared_expert_intermediate_size=32)
PRISM = {
    "schema_version": 1,
    "tensor_namespace": "mlx-lm-text",
    "gdn_activation_layout": "grouped",
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
    "modules": [{"path": "model.layers.3.mlp.gate_proj", "embedding": False, "dtype": "float16", "block": 0}],
}
KDA = {
    "num_heads": 4,
    "head_dim": 32,
    "kda_layers": [1, 2, 3],
    "full_attn_layers": [4],
    "short_conv_kernel_size": 4,
}
KIMI = {
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_key_value_heads": HEADS,
}
KIMI_K3 = text(
    **LATENT,
    **KIMI,
    model_type="kimi_linear",
    hidden_act="situ",
    activation_situ_beta=1.0,
    activation_situ_linear_beta=1.0,
    attn_res_block_size=2,
    head_dim=ABSENT,
    routed_expert_hidden_size=32,
    latent_moe_use_norm=True,
    mla_use_output_gate=True,
    linear_attn_config=KDA | {"gate_lower_bound": -5.0},
)
LFM2 = text(
    norm_eps=1e-5,
    conv_bias=False,
    conv_L_cache=3,
    block_dim=HIDDEN,
    block_ff_dim=2 * HIDDEN,
    block_multiple_of=32,
    block_ffn_dim_multiplier=1.0,
    block_auto_adjust_ff_dim=False,
    layer_types=CONV_AND_FULL,
)
LING = {"layer_group_size": 2, "num_key_value_heads": HEADS}

DELTA_RULES = [
    Family("qwen3_5", nested(QWEN3_5 | {"model_type": "qwen3_5_text"})),
    Family("qwen3_5", QWEN3_5, variant="flat"),
    Family("qwen3_5_moe", nested(QWEN3_5 | QWEN3_5_EXPERTS | {"model_type": "qwen3_5_moe_text"})),
    Family(
        "qwen3_next",
        text(
            **DELTA,
            **QWEN3_5_EXPERTS,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            partial_rotary_factor=0.5,
            norm_topk_prob=True,
        ),
    ),
    Family(
        "prism_hadamard_qwen35",
        nested(
            QWEN3_5 | {"model_type": "qwen3_5_text", "hidden_size": 128, "intermediate_size": 256}, **PRISM
        ),
    ),
    Family("kimi_k3", nested(KIMI_K3)),
    Family(
        "kimi_linear",
        text(
            **(LATENT | {"q_lora_rank": ABSENT}),
            **KIMI,
            linear_attn_config=KDA,
            model_max_length=CONTEXT,
            max_position_embeddings=ABSENT,
            mla_use_nope=True,
        ),
    ),
    Family(
        "olmo_hybrid",
        text(
            **(DELTA | {"linear_num_key_heads": 4}),
            linear_allow_neg_eigval=True,
            attention_bias=False,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
        ),
    ),
    Family(
        "bailing_moe_v3",
        text(
            **LATENT,
            **shared_experts(n_group=2, moe_shared_expert_intermediate_size=32, norm_topk_prob=ABSENT),
            model_type="bailing_hybrid",
            architectures=["BailingMoeV3ForCausalLM"],
            layer_group_size=2,
        ),
    ),
]

CONVOLUTIONS = [
    Family(
        "gear",
        text(
            layer_types=["conv_mixer", SLIDING, "conv_mixer", "full_attention"],
            sliding_window=WINDOW,
            conv_L_cache=3,
        ),
    ),
    Family("lfm2", LFM2),
    Family("lfm2-vl", nested(LFM2 | {"model_type": "lfm2"})),
    Family(
        "lfm2_moe",
        text(
            **experts(norm_topk_prob=True),
            use_expert_bias=True,
            num_dense_layers=1,
            norm_eps=1e-5,
            conv_bias=False,
            conv_L_cache=3,
            layer_types=CONV_AND_FULL,
        ),
    ),
    Family("baichuan_m1", text(sliding_window=WINDOW, sliding_window_layers=[0, 2], conv_window=2)),
]

OTHER_STATES = [
    Family(
        "bailing_hybrid",
        text(
            **LATENT,
            **LING,
            **shared_experts(n_group=2),
            group_norm_size=2,
            routed_scaling_factor=1.0,
            partial_rotary_factor=0.5,
        ),
    ),
    Family("bailing_moe_linear", text(**shared_experts(), **LING, group_norm_size=2)),
    Family(
        "recurrent_gemma",
        text(
            attention_bias=False,
            conv1d_width=4,
            logits_soft_cap=30.0,
            attention_window_size=WINDOW,
            num_key_value_heads=1,
            block_types=["recurrent", "recurrent", "attention"],
        ),
    ),
    Family(
        "rwkv7",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "norm_eps": 1e-5,
            "head_dim": 32,
            "num_hidden_layers": LAYERS,
            "a_low_rank_dim": 16,
            "v_low_rank_dim": 16,
            "gate_low_rank_dim": 16,
            "decay_low_rank_dim": 16,
        },
    ),
]
