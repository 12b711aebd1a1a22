"""One row of the table of model families, and the parts of which their tiny configurations are made."""

from dataclasses import dataclass
from typing import Any

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 512, 64, 4, 2, 16, 4
CONTEXT = 4096

WINDOW = 40
"""Tokens that a layer with a window sees; not a multiple of a block."""

SCALE = 0.3
"""The standard deviation of the random weights with which most families' answers vary."""

SLIDING, FULL = "sliding_attention", "full_attention"
LATE_FULL = [SLIDING, SLIDING, SLIDING, FULL]
EVERY_OTHER_FULL = [SLIDING, FULL, SLIDING, FULL]

ABSENT: Any = object()
"""The value of a key that a configuration does not have."""


@dataclass(frozen=True)
class Group:
    """Families whose layers keep the same kinds of things.

    title: what they keep, as a heading.
    explanation: the same in a sentence, for people to read.
    caches: the classes of mlx-lm's caches of these families, a cache's parts included.
    families: the rows.
    """

    title: str
    explanation: str
    caches: set[str]
    families: list["Family"]


@dataclass(frozen=True)
class Family:
    """A model file of mlx-lm, or a variant of one.

    file: the model file's name, without its suffix.
    config: a tiny configuration that uses every kind of layer of the family.
    variant: in a word, where a file has several rows.
    scale: the standard deviation of the random weights.
    """

    file: str
    config: dict[str, Any]
    variant: str = ""
    scale: float = SCALE

    @property
    def name(self) -> str:
        """The row's name: the file's, and the variant's where there is one."""
        return f"{self.file}:{self.variant}" if self.variant else self.file

    @property
    def full_config(self) -> dict[str, Any]:
        """The configuration as a folder has it, with model type, type of weights and end token."""
        return {"model_type": self.file, "torch_dtype": "float32", "eos_token_id": 258} | self.config


def text(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a llama, with changes; ABSENT takes a key away."""
    config = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 2 * HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return {key: value for key, value in (config | changes).items() if value is not ABSENT}


def nested(config: dict[str, Any], **outside: Any) -> dict[str, Any]:
    """Return the configuration of a model that also sees: that of its text model is in `text_config`."""
    return {"text_config": config, "vision_config": {}} | outside


def experts(**changes: Any) -> dict[str, Any]:
    """Return the keys of a mixture of four experts, two a token, as Qwen names them."""
    return {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32} | changes


def local_experts(**changes: Any) -> dict[str, Any]:
    """Return the keys of a mixture of four experts, two a token, as Mixtral names them."""
    return {"num_local_experts": 4, "num_experts_per_tok": 2} | changes


def routed_experts(**changes: Any) -> dict[str, Any]:
    """Return the keys of four experts beside a shared one, as DeepSeek names them."""
    config = {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    }
    return config | changes


def grouped_experts(**changes: Any) -> dict[str, Any]:
    """Return the keys of experts that are chosen by groups, with biases, as DeepSeek V3 names them."""
    config = {
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
    return routed_experts(**config) | changes


def shared_experts(**changes: Any) -> dict[str, Any]:
    """Return the keys of experts beside a shared one, as Ling names them."""
    config = {"num_shared_experts": 1, "norm_topk_prob": True, "first_k_dense_replace": 1}
    return experts(**config, n_group=1, topk_group=1) | changes


LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "qk_nope_head_dim": 32,
}
"""The sizes of latent attention."""

DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
"""The sizes of a gated delta rule."""

YARN = {
    "type": "yarn",
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 4,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 1024,
}
"""Rotations stretched to longer contexts."""


def llama4_scaling() -> dict[str, Any]:
    """Return rotations with which queries grow from token 64 on, as Ministral 3 and Mistral 4 have them."""
    return YARN | {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 64,
    }


def rotations(kind: str = "default", theta: float = 1e4, **more: Any) -> dict[str, Any]:
    """Return `rope_parameters` of newer configurations."""
    return {"rope_type": kind, "rope_theta": theta} | more


def rotations_by_kind(**more: Any) -> dict[str, Any]:
    """Return `rope_parameters` of configurations that have them for each kind of layer."""
    return {FULL: rotations(theta=1e6, **more), SLIDING: rotations(**more)}
