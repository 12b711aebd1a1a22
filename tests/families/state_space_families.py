"""Families with Mamba or Mamba 2, alone or among layers that attend."""

from .family import (
    HIDDEN,
    LAYERS,
    VOCAB,
    WINDOW,
    Family,
    local_experts,
    routed_experts,
    text,
)

GRANITE_HYBRID = text(
    attention_bias=False,
    embedding_multiplier=2.0,
    attention_multiplier=0.25,
    logits_scaling=1.0,
    residual_multiplier=0.5,
    shared_intermediate_size=64,
)
MAMBA_2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 32,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
}

STATE_SPACES = [
    Family(
        "falcon_h1",
        text(
            attention_bias=False,
            mamba_d_ssm=128,
            **MAMBA_2,
        ),
    ),
    Family(
        "granitemoehybrid",
        GRANITE_HYBRID
        | local_experts()
        | MAMBA_2
        | {
            "layer_types": ["mamba", "attention", "mamba", "attention"],
            "mamba_proj_bias": False,
            "mamba_conv_bias": True,
            "position_embedding_type": "nope",
        },
    ),
    Family(
        "granitemoehybrid",
        GRANITE_HYBRID | {"layer_types": ["attention"] * 4, "position_embedding_type": "rope"},
        variant="attention-only",
    ),
    Family(
        "jamba",
        text(
            attn_layer_offset=1,
            attn_layer_period=2,
            expert_layer_offset=1,
            expert_layer_period=2,
            mamba_d_conv=4,
            mamba_d_state=16,
            mamba_expand=2,
            num_experts=4,
            num_experts_per_tok=2,
        ),
    ),
    Family(
        "mamba",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "state_size": 16,
            "num_hidden_layers": LAYERS,
            "conv_kernel": 4,
            "use_bias": False,
            "use_conv_bias": True,
            "time_step_rank": 8,
        },
    ),
    Family(
        "mamba2",
        {
            "num_heads": 4,
            "head_dim": 32,
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "state_size": 32,
            "num_hidden_layers": LAYERS,
            "layer_norm_epsilon": 1e-5,
            "conv_kernel": 4,
            "n_groups": 2,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": True,
            "time_step_limit": [0.001, 100.0],
            "time_step_rank": 8,
        },
    ),
    Family(
        "nemotron_h",
        text(
            **routed_experts(n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.0),
            num_hidden_layers=5,
            hybrid_override_pattern="M*M-E",
            mamba_num_heads=4,
            mamba_head_dim=32,
            ssm_state_size=32,
            conv_kernel=4,
            n_groups=2,
            mamba_proj_bias=False,
            attention_bias=False,
            mlp_bias=False,
            use_bias=False,
            use_conv_bias=True,
            layer_norm_epsilon=1e-5,
            time_step_limit=[0.0, 100.0],
            moe_shared_expert_intermediate_size=32,
        ),
    ),
    Family(
        "plamo2",
        text(
            hidden_size_per_head=16,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_num_heads=4,
            mamba_step=2,
            mamba_chunk_size=64,
            attention_window_size=WINDOW,
        ),
    ),
]
