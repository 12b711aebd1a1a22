"""Models that get keys and values themselves: what they get is what mlx-lm's own caches give."""

import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache

from pensieve.cache.kv import ArrayPools, HostPools
from pensieve.engine.attention.fetching_layer import FetchingLayer, FetchingProbe
from pensieve.engine.attention.layer_probe import KeepOrder
from pensieve.engine.attention.paged_layers import ForwardContext
from pensieve.engine.attention.paged_model import probe_fetching
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.runner import Runner
from pensieve.engine.selfcheck import logits_error
from pensieve.engine.step import SlotRange

from ...budget import sampled, trials
from ...families.random_model import random_model
from ..harness import Machine, Verdict, grow_tree

RANGES: list[SlotRange] = [(64, 96), (0, 64), (128, 160)]
"""Of a sequence's slots, in the order of its tokens."""


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """On a CPU `mx.compile` calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def first_slots(count: int) -> tuple[SlotRange, ...]:
    taken = []
    for first, end in RANGES:
        size = min(count, end - first)
        if size:
            taken.append((first, first + size))
        count -= size
    return tuple(taken)


@pytest.mark.parametrize("kind", [ArrayPools, HostPools])
@pytest.mark.parametrize("make", [KVCache, lambda: RotatingKVCache(20), lambda: ChunkedKVCache(24)])
def test_a_pass_gets_what_mlx_lms_cache_gives(make: Any, kind: Any) -> None:
    """Position, mask, keys and values of each pass, over slots in several ranges."""
    own: Any = make()
    probe, rng = FetchingProbe(0, own, 16, KeepOrder()), np.random.default_rng(0)
    probe.update_and_fetch(mx.zeros((1, 2, 1, 16)), mx.zeros((1, 2, 1, 8)))
    pools, position = kind([probe.spec().shape], 6), 0
    slots = np.concatenate([np.arange(first, end, dtype=np.int32) for first, end in RANGES])
    for length in [30, 1, 1, 25, 2, 1, 40]:
        end = position + length
        context = ForwardContext(mx.array([position]), slots[position:end], [first_slots(end)], True)
        layer = FetchingLayer(probe.spec(), context, pools)
        if isinstance(own, ChunkedKVCache):
            own.maybe_trim_front()
            assert layer.start_position == own.start_position
        else:
            hidden = mx.zeros((1, length, 1))
            masks = [create_attention_mask(hidden, each, return_array=True) for each in (layer, own)]
            assert str(masks[0]) == str(masks[1])
        assert layer.offset == own.offset
        new = [mx.array(rng.standard_normal((1, 2, length, dim), np.float32)) for dim in (16, 8)]
        for found, expected in zip(layer.update_and_fetch(*new), own.update_and_fetch(*new), strict=True):
            in_order = np.sort(np.array(expected), axis=2)  # a rotating cache keeps no order
            assert (np.sort(np.array(found), axis=2) == in_order).all()
        assert layer.offset == own.offset
        position = end


@pytest.mark.parametrize(
    ("name", "kv_bits", "on_host"),
    sampled(
        [
            ("gemma2", 16, True),
            ("gemma2", 8, False),
            ("internlm3", 16, False),
            ("deepseek_v32", 16, False),
            ("deepseek_v32", 8, True),
            ("minimax_m3_vl", 8, True),
        ],
        kept=[("gemma2", 16, True), ("deepseek_v32", 8, True)],
    ),
)
def test_tokens_are_those_of_one_pass_of_mlx_lm(name: str, kv_bits: int, on_host: bool) -> None:
    """Cached, in a batch and in slices; also where an index chooses among more tokens than it may take."""
    model, rng = random_model(name), random.Random(2)
    paged, verdict = probe_fetching(model, kv_bits), Verdict(tie=1e-3 if kv_bits == 16 else 0.02)
    assert logits_error(paged, on_host) <= 1
    machine = Machine(Runner(paged, Capacity(400), on_host), num_blocks=400)
    num_trees = trials(1, 4)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence, reference_caches(paged))
    assert verdict.wrong == 0
    assert verdict.tokens > 10 * num_trees
    assert len(verdict.seen) > verdict.tokens / 10
