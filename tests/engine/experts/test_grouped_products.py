"""The kernels of many tokens' experts, their text run in C++, against products in MLX."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from pensieve.engine.experts import grouped_products
from pensieve.engine.experts.grouped_products import EXPERT_TILES, PAIRS, GroupedProducts

from ...budget import sampled, trials
from ..attention.compiled import compile_kernel, launch, needs_compiler, races
from ..attention.missing_barrier import leave_out_barrier
from ..attention.typed_kernels import to_numpy, typed_launcher
from ..recurrent.token_loops import distance

pytestmark = needs_compiler

CASES = {
    # rows, experts of each row, experts, size of a row, outputs of the first product
    "few": (3, 1, 7, 64, 64),
    "more than a tile holds": (130, 2, 3, 128, 64),
    "outputs that fill no whole thread group": (40, 2, 4, 64, 192),
}


def chosen(name: str) -> mx.array:
    rows, per_row, num_experts, *_ = CASES[name]
    rng = np.random.default_rng(rows)
    return mx.array(np.stack([rng.permutation(num_experts)[:per_row] for _ in range(rows)]).astype(np.uint32))


@pytest.mark.parametrize("seed", range(trials(4, 20)))
def test_pairs_are_sorted_and_cut_into_tiles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_experts = int(rng.integers(1, 9))
    experts = rng.integers(0, num_experts, int(rng.integers(1, 700)))
    experts[rng.random(len(experts)) < rng.random()] = rng.integers(0, num_experts)
    groups = GroupedProducts(typed_launcher).group(mx.array(experts.astype(np.uint32)), num_experts)
    order, tiles = np.array(groups.order), np.array(groups.tiles)
    assert np.array_equal(order, np.argsort(experts, kind="stable"))
    used = tiles[tiles[:, 2] > 0]
    assert used[:, 2].max() <= PAIRS
    assert used[:, 1].tolist() == (np.cumsum(used[:, 2]) - used[:, 2]).tolist(), "each pair lies in one tile"
    assert used[:, 2].sum() == len(experts)
    assert all(np.all(experts[order[first : first + count]] == each) for each, first, count in used)


@pytest.mark.parametrize(
    ("name", "dtype"),
    sampled(
        [
            ("few", mx.float32),
            ("more than a tile holds", mx.bfloat16),
            ("outputs that fill no whole thread group", mx.float32),
        ],
        kept=[("few", mx.float32), ("more than a tile holds", mx.bfloat16)],
    ),
)
def test_pairs_get_their_own_experts_output(name: str, dtype: mx.Dtype) -> None:
    rows, per_row, num_experts, size, outputs = CASES[name]
    keys = mx.random.split(mx.random.key(0), 4)
    x = mx.random.normal((rows, size), key=keys[0]).astype(dtype)
    shapes = [(num_experts, outputs, size), (num_experts, outputs, size), (num_experts, size, outputs)]
    gate, up, down = (
        (mx.random.normal(shape, key=key) * shape[-1] ** -0.5).astype(dtype)
        for shape, key in zip(shapes, keys[1:], strict=True)
    )
    experts = chosen(name).reshape(-1)
    products = GroupedProducts(typed_launcher)
    groups = products.group(experts, num_experts)
    each = mx.repeat(x, per_row, axis=0)[:, None]
    own_gate, own_up, own_down = (weight[experts].swapaxes(1, 2) for weight in (gate, up, down))
    tolerance = 2e-6 if dtype == mx.float32 else 1e-2
    for found, expected in (
        (products.gated(x, gate, up, groups), nn.silu(each @ own_gate) * (each @ own_up)),
        (products.multiply(x, gate, groups), each @ own_gate),
    ):
        right = (expected @ own_down)[:, 0].astype(mx.float32)
        assert distance(products.multiply_back(found, down, groups).astype(mx.float32), right) < tolerance


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_threads_meet_in_shared_memory_at_barriers_only(
    missing: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_barrier(monkeypatch, "expert_tiles", missing, 2)
    constants = {"INPUTS": 192, "OUTPUTS": 64, "GATED": 1, "GATHERS": 1, "PAIRS": PAIRS}
    library = compile_kernel(EXPERT_TILES, constants, watched=True)
    before = races(library)
    x, weights = mx.random.normal((5, 192)), mx.random.normal((1, 64, 192))
    order, tiles = np.arange(5, dtype=np.int32), np.array([[0, 0, 5]], np.int32)
    inputs = [*map(to_numpy, (x, weights, weights)), order, tiles]
    launch(library, EXPERT_TILES, inputs, [np.zeros((5, 64), np.float32)], (1, 1))
    assert (races(library) > before) == (missing is not None)


def test_both_buffers_fit_into_the_shared_memory_that_the_launch_asks_for() -> None:
    sizes = grouped_products.ROWS + PAIRS, grouped_products.DEPTH + 8
    assert 2 * sizes[0] * sizes[1] * mx.bfloat16.size == grouped_products.WORKSPACE_BYTES
