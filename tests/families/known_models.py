"""Models that people run: of which family each is, and its sizes by its published configuration."""

from dataclasses import dataclass

HALF, SINGLE = 2, 4
"""Bytes of a number in 16 bits, in which keys, values and convolutions are kept, and in float32."""


@dataclass(frozen=True)
class State:
    """What the recurrent layers of a sequence keep: numbers a layer.

    layers: the recurrent layers.
    convolution: the last inputs of convolutions.
    recurrent: what is carried from token to token, in float32.
    """

    layers: int
    convolution: int
    recurrent: int

    @property
    def num_bytes(self) -> int:
        """The bytes of one sequence's state."""
        return self.layers * (HALF * self.convolution + SINGLE * self.recurrent)


@dataclass(frozen=True)
class KnownModel:
    """A model that people run.

    name: as its makers call it.
    family: the model file of mlx-lm, or the variant, that runs it.
    calls: the format of its tool calls, by its name in `api/formats/tool_calls/`; empty where it has none.
    thinks: whether its template lets it think.
    kv_numbers: the numbers that a token's keys and values, or latents, are; 0 where no source is at hand.
    state: what its recurrent layers keep.
    """

    name: str
    family: str
    calls: str
    thinks: bool
    kv_numbers: int = 0
    state: State | None = None


def attention(layers: int, kv_heads: int, head_dim: int) -> int:
    """Return the numbers of a token's keys and values."""
    return layers * kv_heads * 2 * head_dim


def latents(layers: int, rank: int = 512, rotated: int = 64) -> int:
    """Return the numbers of a token's latents and rotated keys."""
    return layers * (rank + rotated)


def delta_rule(layers: int, key_heads: int, value_heads: int, dim: int = 128) -> State:
    """Return the state of gated delta rules behind one convolution of four tokens."""
    return State(layers, 3 * (2 * key_heads + value_heads) * dim, value_heads * dim * dim)


def mamba_2(layers: int, heads: int, head_dim: int, groups: int, state_dim: int = 128) -> State:
    """Return the state of Mamba 2 behind a convolution of four tokens."""
    return State(layers, 3 * (heads * head_dim + 2 * groups * state_dim), heads * head_dim * state_dim)


# Sizes: from the models' published configurations. Formats: from their published templates.
KNOWN_MODELS = [
    KnownModel(
        "Qwen3-Coder-Next",
        "qwen3_next",
        "qwen3_coder",
        False,
        attention(12, 2, 256),
        delta_rule(36, 16, 32),
    ),
    KnownModel(
        "Qwen3-Next-80B-A3B", "qwen3_next", "json_tools", True, attention(12, 2, 256), delta_rule(36, 16, 32)
    ),
    KnownModel(
        "Qwen3.6-35B-A3B", "qwen3_5_moe", "qwen3_coder", True, attention(10, 2, 256), delta_rule(30, 16, 32)
    ),
    KnownModel(
        "Qwen3.5-4B, 9B", "qwen3_5", "qwen3_coder", True, attention(8, 4, 256), delta_rule(24, 16, 32)
    ),
    KnownModel("Qwen3.8-27B", "qwen3_5", "qwen3_coder", True, attention(16, 4, 256), delta_rule(48, 16, 48)),
    KnownModel("Qwen3-Coder-30B-A3B", "qwen3_moe", "qwen3_coder", False, attention(48, 4, 128)),
    KnownModel("Qwen3-8B", "qwen3", "json_tools", True, attention(36, 8, 128)),
    KnownModel(
        "Nemotron-3-Nano-30B-A3B",
        "nemotron_h",
        "qwen3_coder",
        True,
        attention(6, 2, 128),
        mamba_2(23, 64, 64, 8),
    ),
    KnownModel(
        "Granite-4.0-H-Small",
        "granitemoehybrid",
        "json_tools",
        False,
        attention(4, 8, 128),
        mamba_2(36, 128, 64, 1),
    ),
    KnownModel("LFM2-8B-A1B", "lfm2_moe", "pythonic", False, attention(6, 8, 64), State(18, 2 * 2048, 0)),
    KnownModel(
        "Kimi-Linear-48B-A3B",
        "kimi_linear",
        "kimi_k2",
        False,
        latents(7),
        State(20, 3 * 3 * 32 * 128, 32 * 128 * 128),
    ),
    KnownModel("Kimi K2, K2.5", "kimi_k25", "kimi_k2", True, latents(61)),
    KnownModel("Kimi K3", "kimi_k3", "kimi_k3", True),
    KnownModel("GLM-4.7-Flash", "glm4_moe_lite", "glm47", True, latents(47)),
    KnownModel("GLM-4.5-Air", "glm4_moe", "glm47", True, attention(46, 8, 128)),
    KnownModel("GLM-4.6, GLM-4.7", "glm4_moe", "glm47", True, attention(92, 8, 128)),
    KnownModel("GLM-5", "glm_moe_dsa", "glm47", True),
    KnownModel("gpt-oss-20b", "gpt_oss", "harmony_calls", True, attention(24, 8, 64)),
    KnownModel("gpt-oss-120b", "gpt_oss", "harmony_calls", True, attention(36, 8, 64)),
    KnownModel("MiniMax-M2", "minimax:m2", "minimax_m2", True, attention(62, 8, 128)),
    KnownModel("Devstral 2, Ministral 3", "mistral3", "mistral", False),
    KnownModel("Devstral 1, Mistral Small 3", "mistral3:mistral", "mistral", False, attention(40, 8, 128)),
    KnownModel("Mistral Small 4", "mistral4", "mistral", True),
    KnownModel("Gemma 4 26B-A4B, 31B", "gemma4_text:moe", "gemma4", True),
    KnownModel("Gemma 4 E2B, E4B", "gemma4", "gemma4", True),
    KnownModel("Gemma 3n", "gemma3n", "", False),
    KnownModel("Gemma 3 12B", "gemma3", "", False, attention(48, 8, 256)),
    KnownModel("DeepSeek V3, R1", "deepseek_v3", "", True, latents(61)),
    KnownModel("DeepSeek V3.2", "deepseek_v32", "", True),
    KnownModel("Step-3.5-Flash", "step3p5", "qwen3_coder", True),
    KnownModel("Seed-OSS-36B", "seed_oss", "", True, attention(64, 8, 128)),
    KnownModel("LongCat-Flash", "longcat_flash", "longcat", False),
    KnownModel("Llama 3.1 8B", "llama:llama3-rope", "llama3", False, attention(32, 8, 128)),
    KnownModel("Command R7B, Command A", "cohere2", "cohere", True),
    KnownModel("Granite 3.3", "granite", "granite", True),
    KnownModel("Solar-Open-100B", "solar_open", "solar", True),
    KnownModel("Apertus", "apertus", "apertus", True),
    KnownModel("Phi-3-mini-128k", "phi3:longrope", "", False, attention(32, 32, 96)),
]
