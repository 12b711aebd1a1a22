"""The table: a row for each model file of mlx-lm, and for variants that take another way."""

from pathlib import Path

import mlx_lm

from .family import Family, Group
from .latent_families import INDEXED, LATENTS, OWN
from .mixture_families import MIXTURES
from .plain_families import DENSE, EXPANDED
from .recurrent_families import CONVOLUTIONS, DELTA_RULES, OTHER_STATES
from .state_space_families import STATE_SPACES
from .windowed_families import SHARED, WINDOWED


def _keeps(title: str, caches: str, families: list[Family], explanation: str) -> Group:
    return Group(title, explanation, set(caches.split()), families)


GROUPS = [
    _keeps("Keys and values of all tokens", "KVCache", DENSE, "Every layer attends to all tokens."),
    _keeps("Mixtures of experts", "KVCache", MIXTURES, "The same, with experts in the place of an MLP."),
    _keeps(
        "Latent attention that keeps keys and values",
        "KVCache",
        EXPANDED,
        "In mlx-lm these models keep what their latents stand for, which takes many times the memory.",
    ),
    _keeps(
        "Windows",
        "KVCache RotatingKVCache",
        WINDOWED,
        "Some layers see the last tokens only. Where memory is short, they keep no more, and of earlier "
        "tokens what checkpoints need, at which later prompts may branch off; recurrent models with windows "
        "and Llama 4's chunks do the same.",
    ),
    _keeps(
        "Layers that share keys and values",
        "KVCache RotatingKVCache",
        SHARED,
        "Late layers read what an earlier layer has kept, and keep nothing themselves.",
    ),
    _keeps(
        "States: delta rules",
        "ArraysCache KVCache",
        DELTA_RULES,
        "Some layers keep a matrix a head and the last inputs of a convolution, however long the context is.",
    ),
    _keeps(
        "States: state spaces",
        "ArraysCache KVCache CacheList",
        STATE_SPACES,
        "Mamba and Mamba 2, alone or among layers that attend.",
    ),
    _keeps(
        "States: convolutions and others",
        "ArraysCache KVCache RotatingKVCache CacheList",
        [*CONVOLUTIONS, *OTHER_STATES],
        "Short convolutions, linear attention, RG-LRU and RWKV.",
    ),
    _keeps(
        "Latents",
        "KVCache CacheList ArraysCache",
        LATENTS,
        "Latent attention (MLA): a layer keeps one short row a token for all of its heads.",
    ),
    _keeps(
        "An index beside the rest",
        "KVCache CacheList LayerCache",
        INDEXED,
        "Layers that choose, by an index of their own, which tokens or blocks they read. The rows of a batch "
        "are computed one at a time.",
    ),
    _keeps(
        "Attention of their own",
        "KVCache RotatingKVCache ChunkedKVCache",
        OWN,
        "Models that do not leave their attention to mlx-lm, or need more than keys and values for it. Most "
        "of them are computed one row at a time (also PLaMo 2, among the state spaces).",
    ),
]

FAMILIES = {family.name: family for group in GROUPS for family in group.families}

HELPERS = {
    "__init__",
    "activations",
    "base",
    "bitlinear_layers",
    "cache",
    "gated_delta",
    "mla",
    "pipeline",
    "rope_utils",
    "ssm",
    "switch_layers",
}
"""Files among mlx-lm's models that are no models."""


def installed_files() -> set[str]:
    """Return the names of the files among the installed mlx-lm's models, without their suffix."""
    folder = Path(mlx_lm.__file__).parent / "models"
    return {path.stem for path in folder.glob("*.py")}
