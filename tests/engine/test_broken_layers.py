"""Layers that compute wrongly are noticed before a model is served, whichever way it attends."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.states import HostStates
from pensieve.engine.attention.fetching_layer import FetchingLayer
from pensieve.engine.attention.latent_layer import LatentLayer
from pensieve.engine.attention.paged_layers import by_head
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.attention.shared_layer import SharedLayer
from pensieve.engine.loading.build import checked
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.selfcheck import logits_error

from ..families.random_model import random_model

Honest = Callable[..., Any]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """On a CPU `mx.compile` calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@cache
def model_of(name: str) -> Any:
    return random_model(name)


def half_in_decoding(honest: Honest, layer: Any, keys: mx.array, values: mx.array) -> Any:
    return honest(layer, keys * 0.5 if keys.shape[2] == 1 else keys, values)


def half_in_slices(honest: Honest, layer: Any, keys: mx.array, values: mx.array) -> Any:
    return honest(layer, keys * 0.5 if keys.shape[2] > 1 else keys, values)


def without_mask(honest: Honest, layer: Any, *args: Any) -> Any:
    return honest(layer, *args[:-1], None)


def wrong_scale_of_readers(honest: Honest, layer: Any, *args: Any) -> Any:
    *others, params = args
    is_reader = layer._is_stored
    return honest(layer, *others, replace(params, scale=params.scale * 1.1) if is_reader else params)


def not_recognised(honest: Honest, layer: Any, keys: mx.array, values: mx.array) -> Any:
    honest(layer, keys, values)
    return keys, values


def backwards(honest: Honest, layer: Any, keys: mx.array, values: mx.array) -> Any:
    return tuple(part[:, :, ::-1] for part in honest(layer, keys, values))


def lost_after_decoding(honest: Honest, layer: Any, keys: mx.array, values: mx.array) -> Any:
    """Leave zeros for the next pass: this one is right."""
    fetched = honest(layer, keys, values)
    mx.eval(fetched)
    if keys.shape[2] == 1:
        zeros = [np.asarray(by_head(mx.zeros_like(part))) for part in (keys, values)]
        layer._pools.write(layer._layer, layer._context.slots, *zeros)
    return fetched


def break_method(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, broken: Any) -> None:
    honest = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args: broken(honest, *args))


@pytest.mark.parametrize(
    ("family", "kind", "name", "broken"),
    [
        ("deepseek_v3", LatentLayer, "update_and_fetch", half_in_decoding),
        ("deepseek_v3", LatentLayer, "update_and_fetch", half_in_slices),
        ("deepseek_v3", LatentLayer, "answer", without_mask),
        ("gemma4", SharedLayer, "attend", wrong_scale_of_readers),
        ("gemma4", SharedLayer, "update_and_fetch", not_recognised),
    ],
)
def test_a_model_whose_layers_are_stood_for_wrongly_gets_its_kv_itself(
    family: str, kind: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_method(monkeypatch, kind, name, broken)
    assert logits_error(probe(model_of(family), 16), on_host=True) > 1
    found = checked(probe(model_of(family), 16), family, on_host=True)
    assert found.is_fetched
    assert logits_error(found, on_host=True) < 0.1


@pytest.mark.parametrize("broken", [backwards, half_in_decoding, lost_after_decoding])
def test_a_model_that_gets_its_kv_wrongly_is_refused(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoded token leaves was not read in the check."""
    break_method(monkeypatch, FetchingLayer, "update_and_fetch", broken)
    with pytest.raises(ModelError, match="cannot be served: it answers otherwise where a prompt is cut"):
        checked(probe(model_of("gemma2"), 16), "gemma2", on_host=True)


@pytest.mark.parametrize("rows", [1, 2])
def test_wrong_states_after_slices_and_after_decoding_are_noticed(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rows: 1 for slices, 2 for decoding, whose states no other pass of the check had read."""

    def half(honest: Honest, states: Any, slots: list[int], arrays: Any) -> None:
        honest(states, slots, [array * 0.5 for array in arrays] if len(slots) == rows else arrays)

    break_method(monkeypatch, HostStates, "write", half)
    assert logits_error(probe(model_of("qwen3_next"), 16), on_host=True) > 1
