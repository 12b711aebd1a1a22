"""Families that keep latents or an index, and those that attend in ways of their own."""

from .family import (
    CONTEXT,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LATENT,
    LAYERS,
    VOCAB,
    WINDOW,
    YARN,
    Family,
    grouped_experts,
    llama4_scaling,
    local_experts,
    nested,
    rotations,
    text,
)

DEEPSEEK_V3 = text(**LATENT, **grouped_experts(), rope_scaling=YARN)
INDEX = {"index_head_dim": 32, "index_n_heads": 4, "index_topk": 24}
LONGCAT = {
    **LATENT,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "hidden_size": HIDDEN,
    "ffn_hidden_size": HIDDEN,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "num_layers": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "num_attention_heads": HEADS,
    "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "attention_bias": False,
}
NGRAM = {"ngram_vocab_size_ratio": 2, "emb_neighbor_num": 4, "emb_split_num": 4}
LLAMA4 = text(
    model_type="llama4_text",
    attention_bias=False,
    attention_chunk_size=WINDOW,
    interleave_moe_layer_step=2,
    intermediate_size_mlp=128,
    num_local_experts=4,
    num_experts_per_tok=1,
    rope_scaling=None,
    use_qk_norm=True,
)
MINIMAX_M3 = text(
    **local_experts(intermediate_size=32, shared_intermediate_size=32),
    dense_intermediate_size=128,
    partial_rotary_factor=0.5,
    moe_layer_freq=[0, 1, 1, 1],
    sparse_attention_config={
        "sparse_num_index_heads": 2,
        "sparse_index_dim": 32,
        "sparse_block_size": 8,
        "sparse_topk_blocks": 4,
        "sparse_local_block": 1,
        "sparse_attention_freq": [0, 1, 1, 1],
    },
)

LATENTS = [
    Family("deepseek_v3", DEEPSEEK_V3),
    Family(
        "glm4_moe_lite",
        text(
            **LATENT,
            **grouped_experts(n_group=1),
            num_key_value_heads=HEADS,
            rope_scaling=None,
            partial_rotary_factor=1.0,
        ),
    ),
    Family("kimi_k25", nested(DEEPSEEK_V3 | {"model_type": "kimi_k2"})),
    Family("kimi_vl", nested(text(**LATENT, **grouped_experts(), model_type="deepseek_v3"))),
    Family("longcat_flash", LONGCAT),
    Family("longcat_flash_ngram", LONGCAT | NGRAM),
    Family("mistral4", text(**LATENT, **grouped_experts(n_group=1), rope_parameters=llama4_scaling())),
]

INDEXED = [
    Family("deepseek_v32", DEEPSEEK_V3 | INDEX),
    Family(
        "deepseek_v41",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "head_dim": 64,
            "q_lora_rank": 48,
            "qk_rope_head_dim": 16,
            "o_groups": 2,
            "o_lora_rank": 32,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-6,
            "sliding_window": WINDOW,
            "compress_ratios": [0, 4, 4, 4],
            "kv_source_layer_ids": [1],
            "index_source_layer_ids": [1, 3],
            "index_n_heads": 2,
            "index_head_dim": 32,
            "index_topk": 16,
            "hc_mult": 2,
            "max_position_embeddings": CONTEXT,
        },
    ),
    Family(
        "glm_moe_dsa",
        text(**LATENT, **grouped_experts(), **INDEX, attention_bias=False, rope_parameters=rotations()),
    ),
    Family("minimax_m3_vl", nested(MINIMAX_M3)),
]

OWN = [
    Family(
        "afm7",
        {
            "vocab_size": VOCAB,
            "hidden_dim": HIDDEN,
            "num_layers": 6,
            "num_kv_reuse_layers": 2,
            "num_heads": HEADS,
            "num_kv_heads": KV_HEADS,
        },
    ),
    Family(
        "gemma2",
        text(query_pre_attn_scalar=16.0, sliding_window=WINDOW, tie_word_embeddings=True),
        scale=0.12,
    ),
    Family(
        "gpt_bigcode",
        {
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_inner": 2 * HIDDEN,
            "n_head": HEADS,
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": VOCAB,
        },
    ),
    Family(
        "internlm3",
        text(bias=False, qkv_bias=False, rope_scaling={"rope_type": "dynamic", "factor": 6.0}),
    ),
    Family("iquestloopcoder", text(loop_num=2, loop_window_size=WINDOW, num_hidden_layers=2)),
    Family("llama4", nested(LLAMA4)),
    Family(
        "phi3small",
        text(
            vocab_size=100352,
            dense_attention_every_n_layers=2,
            ff_intermediate_size=128,
            gegelu_limit=20.0,
            layer_norm_epsilon=1e-5,
            blocksparse_block_size=32,
            blocksparse_num_local_blocks=1,
            blocksparse_vert_stride=3,
        ),
    ),
]
