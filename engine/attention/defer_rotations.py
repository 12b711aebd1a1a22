"""Finds the norms and rotations of a model that its decode passes can leave to the kernel."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.rope_utils import Llama3RoPE

from .array_attention import AttentionParams
from .folded_norm import FoldedNorm
from .paged_layers import AttentionSpec, PagedLayer
from .paged_model import PagedModel
from .rotation import Call, Deferrable, Deferral, Rotation

ROPES = (nn.RoPE, Llama3RoPE)
"""Rotations that the kernel knows. Their subclasses stay the model's own."""

NORMS = ("q_norm", "k_norm")
"""How mlx-lm's models call the norms of queries' and keys' heads."""


class _Trial(PagedLayer):
    """Notes what the model attends to; returns zeros."""

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec, mx.array([spec.layer + 1]))
        self.layer = spec.layer
        self.queries: mx.array | None = None
        self.keys: mx.array | None = None

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, params: AttentionParams
    ) -> mx.array:
        self.queries, self.keys = queries, keys
        return mx.zeros((*queries.shape[:3], values.shape[3]), queries.dtype)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A model whose rotations are deferred, and the attention modules where nothing else reads the heads."""

    paged: PagedModel
    modules: list[nn.Module]


def defer_rotations(paged: PagedModel) -> Deferred:
    """Put Deferrables in the place of the model's norms and rotations that its decode passes can defer.

    A trial pass on two tokens shows which: the very arrays that a rotation returns must be those that the
    layer attends to, and what the norms return must be what the rotation gets, as it is or with two axes
    exchanged. All else stays, and other passes compute as before.
    """
    places: list[nn.Module] = [m for m in paged.model.modules() if type(m.get("rope")) in ROPES]
    for place in places:
        _stand_in(place, paged.deferral)
    trials = [_Trial(spec) for spec in paged.layers]
    calls: dict[int, list[Call]] = {}
    paged.deferral.calls = calls
    try:
        paged.run(mx.array([[1, 2]]), trials)
    except Exception:  # a model that reads more of a norm or rotation than what it returns
        calls.clear()
    finally:
        paged.deferral.calls = None
    rotations: dict[int, Rotation] = {}
    complete = []
    for place in places:
        trial = next((trial for trial in trials if _goes_straight(place, trial, calls)), None)
        _settle(place, trial is not None, calls)
        if trial is None:
            continue
        norms: list[Any] = [place.get(name) for name in NORMS]
        are_deferred = all(isinstance(norm, Deferrable) for norm in norms)
        own = (norms[0].own, norms[1].own) if are_deferred else None
        rotations[trial.layer] = Rotation.of(paged.deferral, place["rope"].own, own)
        if are_deferred or norms == [None, None]:
            complete.append(place)
    layers = [replace(spec, rotation=rotations.get(spec.layer)) for spec in paged.layers]
    return Deferred(replace(paged, layers=layers), complete)


def _stand_in(place: nn.Module, deferral: Deferral) -> None:
    """Put Deferrables in the place of a module's rotation, and of its norms if they are of heads."""
    place["rope"] = Deferrable(place["rope"], deferral)
    if all(type(place.get(name)) in (nn.RMSNorm, FoldedNorm) for name in NORMS):
        for name in NORMS:
            place[name] = Deferrable(place[name], deferral)


def _goes_straight(place: nn.Module, trial: _Trial, calls: dict[int, list[Call]]) -> bool:
    """Whether what a module's rotation returned, twice, is what a layer attended to."""
    found = calls.get(id(place["rope"]), [])
    return (
        [call.offset is trial.offset for call in found] == [True, True]
        and found[0].result is trial.queries
        and found[1].result is trial.keys
        and all(_keeps_type(call) for call in found)
    )


def _settle(place: nn.Module, is_deferred: bool, calls: dict[int, list[Call]]) -> None:
    """Give a module its own rotation back unless that is deferred, and its norms unless they can be."""
    rope = place["rope"]
    if not is_deferred:
        place["rope"] = rope.own
    norms: list[Any] = [place.get(name) for name in NORMS]
    if not all(isinstance(norm, Deferrable) for norm in norms):
        return
    pairs = list(zip(norms, calls.get(id(rope), []), strict=False))
    if not (is_deferred and all(_is_input(calls.get(id(norm), []), call.x) for norm, call in pairs)):
        for name, norm in zip(NORMS, norms, strict=True):
            place[name] = norm.own


def _is_input(of_norm: list[Call], x: mx.array) -> bool:
    """Whether a norm of heads was called once and its result was `x`, as it is or with two axes exchanged."""
    if len(of_norm) != 1 or of_norm[0].result.ndim != 4 or not _keeps_type(of_norm[0]):
        return False
    if of_norm[0].result is x:
        return True
    result = of_norm[0].result.swapaxes(1, 2)
    return result.shape == x.shape and bool((result == x).all()) and bool((x != 0).any())


def _keeps_type(call: Call) -> bool:
    """Whether the result has the input's type, as the kernel's has; norms in float32 widen half precision."""
    return bool(call.x.dtype == call.result.dtype)
