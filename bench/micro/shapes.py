"""Models with the shapes of real ones and random bf16 weights, in memory or as a folder.

    python -m pensieve.bench.micro.shapes qwen3-4b FOLDER

A folder in /dev/shm is written and read in seconds: 8.8 GB for qwen3-4b.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path

from ..random_model import write_tokenizer
from ..random_weights import CONFIGS, NUM_BYTES, SPECIAL_TOKENS
from ..report import write_json

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-4b": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "phi-3-mini": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
    },
    # Three layers of four by the gated delta rule.
    "qwen3.5-4b": {
        "model_type": "qwen3_5",
        "hidden_size": 2560,
        "num_hidden_layers": 32,
        "intermediate_size": 9216,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
    },
    "qwen3.6-35b-a3b": {
        "model_type": "qwen3_5_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "intermediate_size": 512,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 512,
        "moe_intermediate_size": 512,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
    },
    # Mamba 2, six layers that attend, and a mixture of experts in every other layer.
    "nemotron-3-nano": {
        "model_type": "nemotron_h",
        "hidden_size": 2688,
        "num_hidden_layers": 52,
        "intermediate_size": 1856,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "vocab_size": 131072,
        "mamba_num_heads": 64,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "mamba_proj_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, 1e9],
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": False,
    },
    # Latent attention; mlx-lm's defaults are this model's shape.
    "glm-4.7-flash": {"model_type": "glm4_moe_lite", "vocab_size": 154880, "max_position_embeddings": 202752},
    "tiny": {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}


def random_model(config: dict[str, Any]) -> Any:
    """Return a model with random bf16 weights, made on the device. config: as in a config.json.

    What mlx-lm keeps in float32 stays as the model's class makes it.
    """
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    is_cast: Callable[[str], bool] = getattr(model, "cast_predicate", lambda name: True)

    def drawn(name: str, own: mx.array) -> mx.array:
        return mx.random.normal(own.shape, mx.bfloat16) * own.shape[-1] ** -0.5 if is_cast(name) else own

    model.update(tree_map_with_path(drawn, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def write_random_model(folder: Path, shape: str, max_context: int | None = None) -> Path:
    """Write a random model of `shape` and a tokenizer with as many tokens as the shape's vocabulary.

    The model never ends an answer by itself, and each of its tokens is text at once. Its output weights are
    apart from its input's, as rows of them are zero; a step reads as many bytes as with tied ones.
    max_context: the written model's context length, None for the shape's own.
    """
    config = SHAPES[shape] | {
        key: CONFIGS["attention"][key] for key in ("architectures", "bos_token_id", "eos_token_id")
    }
    config |= {"tie_word_embeddings": False}
    config |= {"max_position_embeddings": max_context or config["max_position_embeddings"]}
    folder.mkdir(parents=True)
    weights = dict(tree_flatten(random_model(config).parameters()))
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    weights[head][: NUM_BYTES + len(SPECIAL_TOKENS)] = 0
    write_json(folder / "config.json", config | {"torch_dtype": "bfloat16"})
    write_tokenizer(folder, config["vocab_size"], config["max_position_embeddings"])
    # The last file: a folder that has it is complete.
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def main() -> None:
    """Write the model that the command names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(write_random_model(options.folder, options.shape))


if __name__ == "__main__":
    main()
