"""Gives a rank its part of a model, by mlx-lm's own code, before any weight is read."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import AllToShardedLinear, QuantizedAllToShardedLinear

from .rank_link import RankError
from .rendezvous import Group


def shard_model(model: Any, group: Group) -> None:
    """Leave in `model`, whose weights are lazy, what this rank computes. Raises RankError.

    Layers are divided by heads and widths where the model's class can do so in mlx-lm (`shard`).
    """
    if not hasattr(model, "shard"):
        name = type(model).__module__.rpartition(".")[2]
        raise RankError(
            f"models of the kind {name} cannot be divided among devices: mlx-lm has no shard() for them"
        )
    before = _heads(model)
    try:
        model.shard(group)
    except (ValueError, AssertionError, RuntimeError, AttributeError, TypeError) as error:
        raise RankError(f"the model cannot be divided among {group.size()} devices: {error}") from error
    _check_heads(before, group.size())
    _use_plain_layers(model)


def _heads(model: nn.Module) -> list[tuple[nn.Module, str, int]]:
    """Return the numbers of heads that the model's modules keep."""
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if "heads" in name and type(value) is int
    ]


def _check_heads(before: list[tuple[nn.Module, str, int]], size: int) -> None:
    """Refuse numbers of heads that were rounded when they were divided: nothing else would tell."""
    for module, name, value in before:
        now = getattr(module, name)
        # Fewer heads than ranks: some of mlx-lm's models give each rank a copy of one.
        is_repeated = now == 1 and size % value == 0
        if now not in (value, value / size) and not is_repeated:
            raise RankError(f"the model cannot be divided among {size} devices: it has {value} ({name})")


def _use_plain_layers(model: nn.Module) -> None:
    """Put plain linear layers in the place of those that differ from them in training only.

    The engine's own forms of layers know plain ones.
    """
    for module in list(model.modules()):
        for name, child in list(module.items()):
            if type(child) is AllToShardedLinear:
                module[name] = _plain(nn.Linear(1, 1, bias=False), child)
            elif type(child) is QuantizedAllToShardedLinear:
                module[name] = _plain(nn.QuantizedLinear(32, 1, bias=False, group_size=32), child)


def _plain(plain: nn.Module, child: nn.Module) -> nn.Module:
    for name in ("group_size", "bits", "mode"):
        if hasattr(child, name):
            setattr(plain, name, getattr(child, name))
    plain.clear()
    for name, value in child.items():
        if isinstance(value, mx.array):
            plain[name] = value
    return plain
