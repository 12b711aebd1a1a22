"""Mixtures of experts whose every layer keeps keys and values of all tokens."""

from .family import (
    CONTEXT,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    Family,
    experts,
    grouped_experts,
    local_experts,
    nested,
    routed_experts,
    shared_experts,
    text,
)
from .plain_families import GRANITE, LONG_ROPE, NTK_ROPE

HUNYUAN = text(
    attention_bias=False,
    moe_topk=2,
    num_experts=4,
    num_shared_expert=1,
    use_mixed_mlp_moe=True,
    use_qk_norm=True,
    rope_scaling=NTK_ROPE,
    cla_share_factor=2,
)
MINIMAX = text(**local_experts(intermediate_size=32, shared_intermediate_size=32), rotary_dim=8)
SPARSE = experts(decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True)


MIXTURES = [
    Family("Klear", text(**SPARSE | {"mlp_only_layers": [0]}, attention_bias=False, n_shared_experts=1)),
    Family("bailing_moe", text(**shared_experts())),
    Family(
        "dbrx",
        {
            "d_model": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "vocab_size": VOCAB,
            "max_seq_len": CONTEXT,
            "ffn_config": {"ffn_hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8, "rope_theta": 10000},
        },
    ),
    Family("deepseek", text(**routed_experts())),
    Family("dots1", text(**routed_experts(norm_topk_prob=True, routed_scaling_factor=1.0))),
    Family(
        "ernie4_5_moe",
        text(
            use_bias=False,
            moe_num_experts=4,
            moe_k=2,
            moe_intermediate_size=32,
            moe_num_shared_experts=1,
            moe_layer_start_index=1,
        ),
    ),
    Family(
        "glm4_moe",
        text(
            **grouped_experts(),
            use_qk_norm=True,
            attention_bias=False,
            rope_scaling=None,
            partial_rotary_factor=0.5,
        ),
    ),
    Family("granitemoe", text(**GRANITE, **local_experts())),
    Family("hunyuan", HUNYUAN | {"use_cla": True}),
    Family("hunyuan", HUNYUAN | {"use_cla": False}, variant="no-cla"),
    Family("minimax", MINIMAX),
    Family("minimax", MINIMAX | {"model_type": "minimax_m2", "shared_intermediate_size": 0}, variant="m2"),
    Family("mixtral", text(**local_experts())),
    Family("olmoe", text(num_experts=4, num_experts_per_tok=2)),
    Family(
        "phimoe",
        text(
            **local_experts(),
            rope_scaling=LONG_ROPE
            | {
                "long_factor": [1.0] * 8,
                "long_mscale": 1.24,
                "short_mscale": 1.24,
                "original_max_position_embeddings": CONTEXT,
            },
        ),
    ),
    Family(
        "phixtral",
        {
            "num_vocab": VOCAB,
            "vocab_size": VOCAB,
            "model_dim": HIDDEN,
            "num_heads": HEADS,
            "num_layers": LAYERS,
            "rotary_dim": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
        },
    ),
    Family("qwen2_moe", text(**experts(shared_expert_intermediate_size=32))),
    Family("qwen3_moe", text(**SPARSE)),
    Family("qwen3_vl_moe", nested(text(**SPARSE, model_type="qwen3_vl_moe_text"))),
    Family("solar_open", text(**grouped_experts(), partial_rotary_factor=1.0, rope_scaling=None)),
]
