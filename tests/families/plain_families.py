"""Dense families whose every layer keeps keys and values of all tokens."""

from typing import Any

from .family import (
    CONTEXT,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LATENT,
    LAYERS,
    VOCAB,
    YARN,
    Family,
    nested,
    routed_experts,
    text,
)

LONG_ROPE = {"type": "longrope", "short_factor": [1.0] * 8}
NTK_ROPE = {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}
NTK_ROPE_V1 = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.0}
GRANITE = {
    "logits_scaling": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "attention_bias": False,
    "mlp_bias": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
MINICPM = {"dim_model_base": HIDDEN, "scale_depth": 1.4, "scale_emb": 1.0}


def blocks(*attentions: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Nemotron-NAS's blocks, two of each attention."""
    return [{"attention": attention, "ffn": {"ffn_mult": 1.0}} for attention in attentions] * 2


DENSE = [
    Family("apertus", text(mlp_bias=False, attention_bias=False, post_norm=False, qk_norm=True)),
    Family("bitnet", text()),
    Family("cohere", text(layer_norm_eps=1e-5)),
    Family("ernie4_5", text(use_bias=False, tie_word_embeddings=True)),
    Family(
        "exaone",
        {
            "hidden_size": HIDDEN,
            "num_layers": LAYERS,
            "intermediate_size": 2 * HIDDEN,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": VOCAB,
            "layer_norm_epsilon": 1e-5,
            "rope_theta": 10000,
            "max_position_embeddings": CONTEXT,
        },
    ),
    Family("gemma", text(tie_word_embeddings=True)),
    Family("glm", text(attention_bias=False)),
    Family("glm4", text(attention_bias=False, partial_rotary_factor=0.5)),
    Family(
        "gpt2",
        {
            "n_ctx": 1024,
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_layer": LAYERS,
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": VOCAB,
        },
    ),
    Family("gpt_neox", text(layer_norm_eps=1e-5, rotary_emb_base=10000, rotary_pct=0.25), scale=0.45),
    Family(
        "gptj",
        {
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_layer": LAYERS,
            "n_positions": 1024,
            "rotary_dim": 8,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": VOCAB,
        },
        scale=0.12,
    ),
    Family("granite", text(**GRANITE)),
    Family("helium", text(attention_bias=False, mlp_bias=False)),
    Family(
        "hunyuan_v1_dense",
        text(attention_bias=False, use_qk_norm=True, rope_scaling=NTK_ROPE | NTK_ROPE_V1),
    ),
    Family("internlm2", text(bias=False)),
    Family(
        "lille-130m",
        {
            "block_size": CONTEXT,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_kv_heads": KV_HEADS,
            "n_embd": HIDDEN,
            "vocab_size": VOCAB,
            "rope_theta": 1e4,
            "layer_norm_eps": 1e-5,
        },
    ),
    Family("llama", text()),
    Family("llama", text(rope_scaling=LLAMA3_ROPE), variant="llama3-rope"),
    Family("llama", text(model_type="mistral"), variant="mistral"),
    Family("llama4_text", text(intermediate_size_mlp=128, no_rope_layers=[1, 1, 1, 0], use_qk_norm=True)),
    Family("mimo", text()),
    Family("minicpm", text(**MINICPM)),
    Family("mistral3", nested(text(model_type="mistral")), variant="mistral"),
    Family("nanbeige", text(num_loops=1)),
    Family("nanbeige", text(num_loops=2, num_hidden_layers=2), variant="two-loops"),
    Family("nanochat", text()),
    Family("nemotron", text(hidden_act="relu2", norm_eps=1e-5)),
    Family("nemotron-nas", text(block_configs=blocks({"n_heads_in_group": 2}, {"n_heads_in_group": 4}))),
    Family(
        "nemotron-nas",
        text(block_configs=blocks({"n_heads_in_group": 2}, {"no_op": True, "n_heads_in_group": None})),
        variant="no-op",
    ),
    Family("olmo", text()),
    Family("olmo2", text(attention_bias=False)),
    Family(
        "openelm",
        {
            "head_dim": HEAD_DIM,
            "num_transformer_layers": LAYERS,
            "model_dim": HIDDEN,
            "vocab_size": VOCAB,
            "ffn_dim_divisor": 32,
            "num_query_heads": [4, 4, 6, 6],
            "num_kv_heads": [1, 1, 2, 2],
            "ffn_multipliers": [0.5, 1.0, 2.0, 2.0],
            "max_context_length": 2048,
        },
    ),
    Family("phi", text(layer_norm_eps=1e-5, partial_rotary_factor=0.5, num_key_value_heads=HEADS)),
    Family("phi3", text()),
    Family(
        "phi3",
        text(
            original_max_position_embeddings=2048,
            rope_scaling=LONG_ROPE | {"long_factor": [1.5] * 8},
        ),
        variant="longrope",
    ),
    Family("pixtral", nested(text(model_type="mistral"))),
    Family("plamo", text(n_shared_head=2)),
    Family(
        "qwen",
        {
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "kv_channels": HEAD_DIM,
            "seq_length": CONTEXT,
            "max_position_embeddings": CONTEXT,
            "layer_norm_epsilon": 1e-6,
            "intermediate_size": 2 * HIDDEN,
            "no_bias": True,
            "vocab_size": VOCAB,
        },
    ),
    Family("qwen2", text()),
    Family("qwen2_vl", nested(text(model_type="qwen2"))),
    Family("qwen2_vl", text(model_type="qwen2_vl", vision_config={}), variant="flat"),
    Family("qwen3", text()),
    Family("qwen3_vl", nested(text(model_type="qwen3_vl_text"))),
    Family("seed_oss", text(attention_bias=True)),
    Family("smollm3", text(no_rope_layer_interval=4)),
    Family("stablelm", text(use_qkv_bias=False, partial_rotary_factor=0.25, layer_norm_eps=1e-5)),
    Family("starcoder2", text(norm_epsilon=1e-5)),
    Family("talkie", text(num_key_value_heads=HEADS)),
    Family("telechat3", text()),
]

EXPANDED = [
    Family(
        "deepseek_v2",
        text(**LATENT, **routed_experts(n_group=1, topk_group=1, topk_method="greedy"), rope_scaling=YARN),
    ),
    Family(
        "minicpm3",
        text(
            **LATENT,
            **MINICPM,
            num_key_value_heads=HEADS,
            rope_scaling=LONG_ROPE | {"long_factor": [1.0] * 8, "original_max_position_embeddings": CONTEXT},
        ),
    ),
    Family("youtu_llm", text(**LATENT, num_key_value_heads=HEADS)),
]
