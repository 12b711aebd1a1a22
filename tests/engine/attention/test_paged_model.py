"""What the probe learns of models whose caches are of several kinds."""

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache

from pensieve.cache.states import StateArray
from pensieve.engine.attention.cache_structure import CacheStructure
from pensieve.engine.attention.paged_model import probe

from ..recurrent_models import recurrent_model


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Most models compile an operation or two, which on a CPU takes longer than these tests."""
    mx.disable_compile()
    yield
    mx.enable_compile()


LAST = {
    "jamba": [False, True],  # the model ends with an attention, and an MLP that keeps nothing
    "nemotron_h": [False],  # layers M*M-E: the second Mamba comes after the attention
    "falcon_h1": [False, False, True],  # each layer has both, and Mamba is computed first
    "mamba": [],
}


@pytest.mark.parametrize("kind", LAST)
def test_an_attention_is_last_when_nothing_is_kept_after_it(kind: str) -> None:
    assert [spec.is_last for spec in probe(recurrent_model(kind), 16).layers] == LAST[kind]


def test_states_are_known_by_shape_and_type_and_do_not_count_as_kv() -> None:
    paged = probe(recurrent_model("mamba"), 16)
    assert paged.kv_bytes_per_token == 0
    assert [spec.arrays for spec in paged.states] == [
        (StateArray((3, 96), mx.float32), StateArray((96, 8), mx.float32))
    ] * 3
    assert paged.state_bytes == 3 * 4 * (3 * 96 + 96 * 8)


def test_caches_are_counted_not_layers() -> None:
    """Of nemotron_h's five layers, two have no cache; falcon_h1 has two in each of three layers."""
    for kind, num_layers, num_states in (("nemotron_h", 1, 2), ("falcon_h1", 3, 3)):
        paged = probe(recurrent_model(kind), 16)
        assert (len(paged.layers), len(paged.states)) == (num_layers, num_states)


def test_a_list_of_caches_becomes_a_tuple_in_its_place() -> None:
    nested = CacheList(ArraysCache(1), CacheList(KVCache(), KVCache()))
    structure = CacheStructure([KVCache(), nested, ArraysCache(2)])
    assert structure.build("abc", "xy") == ["a", ("x", ("b", "c")), "y"]


class _Growing(nn.Module):
    """Keeps every token that it was given."""

    def make_cache(self) -> list[ArraysCache]:
        return [ArraysCache(1)]

    def __call__(self, inputs: mx.array, cache: list[ArraysCache]) -> mx.array:
        (own,) = cache
        own[0] = inputs if own[0] is None else mx.concatenate([own[0], inputs], axis=1)
        return mx.zeros((*inputs.shape, 8))


def test_a_state_that_grows_is_refused() -> None:
    with pytest.raises(ValueError, match="changes its shape"):
        probe(_Growing(), 16)  # type: ignore[no-untyped-call]
