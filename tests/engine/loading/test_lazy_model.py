"""What a model keeps of each token and sequence, found without its weights' values."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo, read_model_info

from ...models import WINDOW, write_json, write_model

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


def write_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Write a folder for any config, with zeros of bfloat16."""
    write_model(folder)  # for the tokenizer
    left_out = [key for key in ("head_dim", "num_key_value_heads") if config.get(key, 0) is None]
    given = {key: value for key, value in config.items() if key not in left_out} | {"eos_token_id": 258}
    write_json(folder / "config.json", given)
    model_class, args_class = mlx_lm.utils._get_classes(given)
    parameters: Any = tree_flatten(model_class(args_class.from_dict(given)).parameters())
    weights = {name: mx.zeros(array.shape, mx.bfloat16) for name, array in parameters}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def read_info(folder: Path) -> ModelInfo:
    return read_model_info(folder, "odd", None, 16)


@pytest.mark.parametrize("model_type", ODD)
def test_facts_are_the_models_own(tmp_path: Path, model_type: str) -> None:
    """Some were refused for a key's name, others planned with up to eight times their KV."""
    config, floats, context = ODD[model_type]
    info = read_info(write_folder(tmp_path, config | {"model_type": model_type}))
    assert info.vocab_size == VOCAB
    assert info.num_layers == 4
    assert info.kv_bytes_per_token == 2 * floats
    assert info.context_length == context
    assert info.state_bytes == 0


def test_gemma_3_is_read_as_google_publishes_it(tmp_path: Path) -> None:
    """Its text_config has no vocab_size and no max_position_embeddings; it was refused."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "sliding_window": WINDOW,
        "head_dim": DIM,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    info = read_info(write_folder(tmp_path, config))
    assert (info.vocab_size, info.context_length) == (262_208, 131_072)
    assert info.kv_bytes_per_token == 6 * 4 * 2 * DIM * 2


def test_weights_are_counted_as_they_will_be_in_memory(tmp_path: Path) -> None:
    """Weights of a part that mlx-lm leaves out, such as one for pictures, take no memory."""
    folder = write_folder(tmp_path, ORDINARY | {"model_type": "llama"})
    parameters: Any = tree_flatten(mlx_lm.utils.load_model(folder)[0].parameters())
    num_bytes = sum(array.nbytes for _, array in parameters)
    assert read_info(folder).weight_bytes == num_bytes
    assert read_model_info(folder, "odd", "float32", 16).weight_bytes == 2 * num_bytes


def test_no_weight_is_read(tmp_path: Path) -> None:
    """The files may hold nothing but their headers, as before a download."""
    folder = write_folder(tmp_path, ORDINARY | {"model_type": "qwen3"})
    expected = read_info(folder)
    file = folder / "model.safetensors"
    size, header = file.stat().st_size, 8 + int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("r+b") as stream:
        stream.truncate(header)
        stream.truncate(size)
    before = mx.get_active_memory()
    assert read_info(folder) == expected
    assert mx.get_active_memory() - before < 1_000_000


@pytest.mark.parametrize("said", ["", "to run it install x"])
def test_a_file_of_mlx_lm_that_ends_the_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """mlx-lm's olmo exits where a package is missing; that ended the engine's process with SIGABRT."""

    def load_model(*_: object, **__: object) -> None:
        print(said)
        raise SystemExit(1)

    folder = write_folder(tmp_path, ORDINARY | {"model_type": "llama"})
    monkeypatch.setattr(mlx_lm.utils, "load_model", load_model)
    with pytest.raises(ModelError, match="cannot be loaded: " + (said or "a package that the model needs")):
        read_info(folder)
