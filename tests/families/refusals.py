"""Which families are refused, and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a family's models are refused.

    message: words of the error with which a start ends.
    why: the reason for people to read.
    """

    message: str
    why: str


INDEX = Refusal("", "the index of its layers is not kept yet")

REFUSALS = {
    "afm7": Refusal("gives other answers", "rotates queries by the length of the keys that it is given"),
    "deepseek_v32": INDEX,
    "deepseek_v41": Refusal("(LayerCache)", "has a cache of its own that compresses tokens"),
    "gemma2": Refusal("in a way of its own", "computes its attention by hand"),
    "glm_moe_dsa": INDEX,
    "gpt_bigcode": Refusal("Only length-1 arrays", "it takes one position for all rows"),
    "internlm3": Refusal("Only length-1 arrays", "its rotations take one position for all rows"),
    "llama4": Refusal("(ChunkedKVCache)", "attends in chunks"),
    "minimax_m3_vl": INDEX,
    "olmo": Refusal("cannot be loaded", "mlx-lm ends the process unless `ai2-olmo` is installed"),
    "phi3small": Refusal("keeps no keys and values", "its attention is sparse by blocks"),
    "plamo2": Refusal("in a way of its own", "computes its attention by hand"),
}
"""By the family's name; all others are served."""

NEEDS_METAL = {"bitnet", "muse_spark"}
"""Families whose model file in mlx-lm runs on Metal only; the tests run them in plain MLX."""

NEEDS_A_PACKAGE = {"olmo"}
"""Families whose model file in mlx-lm imports a package that mlx-lm does not bring along."""

JUDGED_WHOLE = {"plamo3"}
"""Families that see a token more in a prompt than in an answer on mlx-lm's caches, and here always see it."""
