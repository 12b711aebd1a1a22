"""One pass leaves the states that slices which end there leave, in every kind of recurrent layer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from pensieve.bench.micro.turn_passes import CountingRunner
from pensieve.cache.states import StateArray, StateRows, StateSpec
from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.find_functions import find_functions
from pensieve.engine.loading.build import checked
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.recurrent.parted_layers import PartedCache, PartedStates, parted_form, with_parts
from pensieve.engine.step import PrefillChunk, StateSlots

from ..recurrent_models import CONFIGS, VOCAB, recurrent_model

TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, VOCAB, 150)]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def states_after(paged: PagedModel, on_host: bool) -> tuple[list[list[mx.array]], int]:
    """The states after 40, 41, 139 and 150 tokens, in two slices, and the passes that they took."""
    runner = CountingRunner(paged, Capacity(5, 5), on_host)
    begun, rest = StateSlots(None, 0), StateSlots(0, 4, ((10, 1), (11, 2), (109, 3)))
    runner.prefill(PrefillChunk(0, TOKENS[:30], 0, ((32, 62),), begun))
    runner.prefill(PrefillChunk(0, TOKENS[30:], 30, ((32, 96), (0, 32), (96, 150)), rest))
    return [runner.caches.states.read([slot]) for slot in range(1, 5)], runner.num_passes


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_pass_leaves_what_slices_that_end_there_leave(kind: str, on_host: bool) -> None:
    paged = probe(recurrent_model(kind), 16)
    paged = replace(paged, functions=find_functions(paged.model, on_host))
    (expected, num_slices), (found, num_passes) = (
        states_after(each, on_host) for each in (paged, with_parts(paged))
    )
    assert (num_slices, num_passes) == (5, 2)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert float(mx.abs(a - b).max()) <= 1e-5 * float(mx.abs(b).max())


def test_a_model_whose_states_are_wrong_within_slices_is_served_with_a_pass_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paged, left = probe(recurrent_model("lfm2"), 16), PartedStates.left
    assert checked(paged, "a model", on_host=True).leaves_states

    def wrong(states: PartedStates, kept: list[StateArray]) -> list[StateRows]:
        return [left(states, kept)[-1]] * len(left(states, kept))

    monkeypatch.setattr(PartedStates, "left", wrong)
    assert not checked(paged, "a model", on_host=True).leaves_states


def test_a_layer_that_leaves_no_state_is_found_out() -> None:
    spec = probe(recurrent_model("lfm2"), 16).states[0]
    states = PartedStates(None, [3, 5])
    states.caches([StateSpec(spec.arrays)])
    with pytest.raises(ValueError, match="shorter"):
        states.left(spec.kept)


def test_arguments_are_divided_by_their_tokens_and_results_joined() -> None:
    def layer(
        self: nn.Module, x: mx.array, first: mx.array, cache: Any, offset: int
    ) -> tuple[mx.array, None]:
        total = x.sum(1) if cache[0] is None else cache[0] + x.sum(1)
        cache[0] = total
        return x + first + offset, None

    cache, x = PartedCache([None], [2, 3]), mx.arange(3.0)[None, :, None]
    out, nothing = parted_form(layer)(nn.Module(), x, 10 * x, cache, offset=mx.array([100]))
    assert out.flatten().tolist() == [100.0, 111.0, 124.0]
    assert nothing is None
    assert [left[0].item() for left in cache.left if left[0] is not None] == [1.0, 3.0]
