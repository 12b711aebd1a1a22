"""Families of whose layers some see a window only, or share their keys and values with others."""

from .family import (
    EVERY_OTHER_FULL,
    FULL,
    HEADS,
    KV_HEADS,
    LATE_FULL,
    SLIDING,
    VOCAB,
    WINDOW,
    Family,
    experts,
    grouped_experts,
    llama4_scaling,
    local_experts,
    nested,
    rotations,
    rotations_by_kind,
    text,
)

GEMMA3 = text(sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=16)
GEMMA3N = text(
    model_type="gemma3n_text",
    num_kv_shared_layers=2,
    vocab_size_per_layer_input=VOCAB,
    hidden_size_per_layer_input=16,
    sliding_window=WINDOW,
    layer_types=EVERY_OTHER_FULL,
    rope_local_base_freq=1e4,
    final_logit_softcapping=30.0,
    activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0],
    altup_num_inputs=4,
    altup_coef_clip=120.0,
    altup_correct_scale=True,
    altup_active_idx=0,
    laurel_rank=8,
)
GEMMA4 = text(
    num_hidden_layers=8,
    layer_types=LATE_FULL * 2,
    global_head_dim=32,
    num_key_value_heads=1,
    sliding_window=WINDOW,
    sliding_window_pattern=4,
    final_logit_softcapping=30.0,
    tie_word_embeddings=True,
    vocab_size_per_layer_input=VOCAB,
    rope_parameters={
        FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1e6},
        SLIDING: {"rope_theta": 1e4},
    },
)
GEMMA4_PLAIN = GEMMA4 | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
GEMMA4_SHARED = GEMMA4 | {
    "num_kv_shared_layers": 4,
    "hidden_size_per_layer_input": 16,
    "use_double_wide_mlp": True,
}
GEMMA4_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
SPARSE_AFTER_ONE = ["dense", "sparse", "sparse", "sparse"]
LAGUNA_ROPE = {
    FULL: rotations(
        "yarn",
        5e5,
        factor=8.0,
        original_max_position_embeddings=4096,
        beta_slow=1.0,
        beta_fast=32.0,
        partial_rotary_factor=0.5,
    ),
    SLIDING: rotations(partial_rotary_factor=1.0),
}
MUSE_SPARK = text(
    post_norm_eps=1e-6,
    rope_parameters=rotations(),
    layer_rope_theta=[1e4, 1e4, 1e4, 0.0],
    layer_types=LATE_FULL,
    sliding_window=WINDOW,
    final_logit_softcapping=20.0,
    output_multiplier=1.0,
    moe_hidden_size=32,
    **local_experts(moe_intermediate_size=32),
)

WINDOWED = [
    Family("afmoe", text(**experts(), layer_types=LATE_FULL, sliding_window=WINDOW, num_dense_layers=1)),
    Family("cohere2", text(sliding_window=WINDOW, sliding_window_pattern=2, layer_norm_eps=1e-5)),
    Family(
        "exaone4",
        text(
            sliding_window=WINDOW,
            sliding_window_pattern="LLLG",
            layer_types=LATE_FULL,
            rope_scaling=None,
        ),
        scale=0.12,
    ),
    Family(
        "exaone_moe",
        text(
            **experts(num_shared_experts=1),
            sliding_window=WINDOW,
            layer_types=LATE_FULL,
            is_moe_layer=[False, True, True, True],
        ),
    ),
    Family("gemma3", nested(GEMMA3 | {"model_type": "gemma3_text"}, vocab_size=VOCAB)),
    Family("gemma3_text", GEMMA3),
    Family("gemma4_text", GEMMA4_PLAIN, variant="no-sharing", scale=0.12),
    Family(
        "gemma4_text",
        GEMMA4_PLAIN
        | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_key_value_heads": KV_HEADS},
        variant="k_eq_v",
        scale=0.12,
    ),
    Family(
        "gemma4_text",
        GEMMA4_PLAIN | GEMMA4_EXPERTS | {"enable_moe_block": True},
        variant="moe",
        scale=0.06,
    ),
    Family(
        "gpt_oss",
        text(
            **local_experts(),
            layer_types=EVERY_OTHER_FULL,
            sliding_window=WINDOW,
            rope_scaling=rotations(
                "yarn",
                factor=32.0,
                beta_fast=32.0,
                beta_slow=1.0,
                original_max_position_embeddings=4096,
                truncate=False,
            ),
        ),
    ),
    Family(
        "laguna",
        text(
            **experts(shared_expert_intermediate_size=32),
            layer_types=EVERY_OTHER_FULL,
            sliding_window=WINDOW,
            partial_rotary_factor=0.5,
            mlp_layer_types=SPARSE_AFTER_ONE,
            num_attention_heads_per_layer=[4, 8, 4, 8],
            rope_parameters=LAGUNA_ROPE,
        ),
    ),
    Family("llama", text(layer_types=EVERY_OTHER_FULL, sliding_window=WINDOW), variant="sliding"),
    Family(
        "mellum",
        text(
            **experts(norm_topk_prob=True),
            sliding_window=WINDOW,
            layer_types=LATE_FULL,
            rope_parameters=rotations_by_kind(),
        ),
    ),
    Family(
        "mimo_v2_flash",
        text(
            **grouped_experts(n_shared_experts=None, n_group=1, moe_layer_freq=[0, 1, 1, 1]),
            hybrid_layer_pattern=[0, 1, 0, 1],
            add_swa_attention_sink_bias=True,
            add_full_attention_sink_bias=False,
            sliding_window_size=WINDOW,
            layernorm_epsilon=1e-5,
            swa_rope_theta=1e4,
            swa_num_attention_heads=HEADS,
            swa_num_key_value_heads=KV_HEADS,
            head_dim=48,
            v_head_dim=32,
            swa_head_dim=48,
            swa_v_head_dim=32,
            partial_rotary_factor=0.5,
        ),
    ),
    Family(
        "ministral3",
        text(layer_types=EVERY_OTHER_FULL, sliding_window=WINDOW, rope_parameters=llama4_scaling()),
    ),
    Family("mistral3", nested(text(model_type="ministral3", rope_parameters=llama4_scaling()))),
    Family("muse_glimmer", text(sliding_window=WINDOW, layer_types=LATE_FULL)),
    Family("muse_spark", {"text_config": MUSE_SPARK}),
    Family("olmo3", text(layer_types=LATE_FULL, sliding_window=WINDOW)),
    Family(
        "plamo3",
        text(window_size=WINDOW, sliding_window=WINDOW, sliding_window_pattern=2, rope_local_theta=10000),
    ),
    Family(
        "spark2_5",
        text(sliding_window=WINDOW, layer_types=LATE_FULL, rope_parameters=rotations_by_kind()),
    ),
    Family(
        "step3p5",
        text(
            num_attention_groups=2,
            rope_theta=[1e4] * 4,
            sliding_window=WINDOW,
            layer_types=[FULL, SLIDING, SLIDING, FULL],
            partial_rotary_factors=[0.5, 1.0, 1.0, 0.5],
            use_head_wise_attn_gate=True,
            attention_other_setting={"num_attention_heads": 8, "num_attention_groups": 2},
            moe_num_experts=4,
            moe_top_k=2,
            moe_intermediate_size=32,
            share_expert_dim=32,
            moe_layers_enum="1,2,3",
        ),
    ),
]

SHARED = [
    Family("gemma3n", nested(GEMMA3N), scale=0.12),
    Family("gemma4", nested(GEMMA4_SHARED | {"model_type": "gemma4_text"}, vocab_size=VOCAB), scale=0.12),
    Family("gemma4_text", GEMMA4_SHARED, scale=0.12),
]
