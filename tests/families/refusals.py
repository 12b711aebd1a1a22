"""Which families are refused, and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a family's models are refused.

    message: words of the error with which a start ends.
    why: the reason for people to read.
    is_tried: whether only the loaded model shows it; else the weights are not even fetched.
    """

    message: str
    why: str
    is_tried: bool = False


REFUSALS = {
    "deepseek_v41": Refusal("(LayerCache)", "has a cache of its own that compresses tokens"),
    "olmo": Refusal("cannot be loaded", "mlx-lm ends the process unless `ai2-olmo` is installed"),
    "phi3small": Refusal(
        "cut into slices", "its blocks of sparse attention move with a prompt's slices", is_tried=True
    ),
}
"""By the family's name; all others are served."""

NEEDS_METAL = {"bitnet", "muse_spark"}
"""Families whose model file in mlx-lm runs on Metal only; the tests run them in plain MLX."""

NEEDS_A_PACKAGE = {"olmo"}
"""Families whose model file in mlx-lm imports a package that mlx-lm does not bring along."""

JUDGED_WHOLE = {"plamo3": "its windows see as many tokens in an answer as in a prompt, in mlx-lm one fewer"}
"""Families that differ from mlx-lm's answers by design, and why; their answers are judged read at once."""
