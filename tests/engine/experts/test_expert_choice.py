"""The kernels that choose and sum experts, their text run in C++, against mlx-lm's own operations."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.glm4_moe_lite import group_expert_select

from pensieve.engine.experts.expert_choice import CHOOSE, Choice, ExpertChoice, Gate, SharedExpert

from ...budget import sampled
from ..attention.compiled import compile_kernel, launch, needs_compiler, races
from ..attention.missing_barrier import leave_out_barrier
from ..attention.typed_kernels import to_numpy, typed_launcher
from ..recurrent.token_loops import distance

pytestmark = needs_compiler


def softmax_choice(logits: mx.array, top: int, normalises: bool) -> tuple[mx.array, mx.array]:
    """As in mlx-lm's Qwen3NextSparseMoeBlock."""
    gates = mx.softmax(logits, axis=-1, precise=True)
    chosen = mx.argpartition(gates, kth=-top, axis=-1)[..., -top:]
    scores = mx.take_along_axis(gates, chosen, axis=-1)
    return chosen, scores / scores.sum(axis=-1, keepdims=True) if normalises else scores


def by_expert(chosen: mx.array, shares: mx.array) -> tuple[mx.array, mx.array]:
    order = mx.argsort(chosen, axis=-1)
    pair = (mx.take_along_axis(array, order, axis=-1) for array in (chosen, shares.astype(mx.float32)))
    return tuple(pair)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("sizes", "dtype", "normalises"),
    sampled(
        [
            ((256, 8), mx.bfloat16, True),
            ((130, 3), mx.float32, False),
            ((512, 10), mx.float16, True),
        ],
        kept=[((256, 8), mx.bfloat16, True), ((130, 3), mx.float32, False)],
    ),
)
def test_rows_get_the_experts_that_mlx_lm_chooses(
    sizes: tuple[int, int], dtype: mx.Dtype, normalises: bool
) -> None:
    """Among 256 numbers of bfloat16 many are equal: those are chosen in the order of mlx-lm's sort."""
    num_experts, top = sizes
    logits = (mx.random.normal((7, num_experts), key=mx.random.key(0)) * 2).astype(dtype)
    corrections = mx.random.normal((num_experts,), key=mx.random.key(1))
    kernel = ExpertChoice(typed_launcher)
    with_softmax = softmax_choice(logits, top, normalises)
    with_sigmoid = group_expert_select(logits, corrections, top, 1, 1, 1.8, normalises)
    for theirs, choice in (
        (with_softmax, Choice(top, normalises)),
        (with_sigmoid, Choice(top, normalises, corrections, 1.8)),
    ):
        (chosen, shares), expected = by_expert(*kernel.choose(logits, choice)[:2]), by_expert(*theirs)
        assert mx.array_equal(chosen, expected[0])
        assert distance(shares, expected[1]) < 1e-6


def test_a_row_without_numbers_still_gets_experts_that_exist() -> None:
    logits = mx.full((2, 130), mx.nan)
    for choice in (Choice(3, True), Choice(3, True, mx.zeros((130,)))):
        chosen = ExpertChoice(typed_launcher).choose(logits, choice).experts
        assert all(len(set(row)) == 3 and max(row) < 130 for row in np.array(chosen).tolist())


@pytest.mark.parametrize("size", [64, 1224])
def test_the_shared_experts_gate_is_multiplied_by_the_way(size: int) -> None:
    rows, weight = mx.random.normal((5, size)), mx.random.normal((1, size))
    logits = mx.random.normal((5, 6))
    kernel, choice = ExpertChoice(typed_launcher), Choice(2, True)
    found = kernel.choose(logits, choice, Gate(rows, weight))
    assert distance(found.gate_logit, (rows @ weight.T)[:, 0]) < 2e-6
    assert mx.array_equal(found.experts, kernel.choose(logits, choice).experts)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("shared", ["gated", "plain", "none"])
def test_outputs_are_summed_as_mlx_lm_sums_them(shared: str, dtype: mx.Dtype) -> None:
    keys = iter(mx.random.split(mx.random.key(3), 4))
    outs, more, logit = (
        mx.random.normal(shape, key=next(keys)).astype(dtype) for shape in [(5, 3, 300), (5, 300), (5, 1)]
    )
    shares = mx.random.uniform(shape=(5, 3), key=next(keys)).astype(dtype)
    wide = mx.float32 if shared == "plain" else dtype
    expected = (outs * shares[..., None].astype(wide)).sum(axis=-2).astype(dtype)
    if shared != "none":
        expected = expected + (more * mx.sigmoid(logit) if shared == "gated" else more)
    given = {"none": None, "plain": SharedExpert(more), "gated": SharedExpert(more, logit)}[shared]
    rows = outs.reshape(15, 300)
    found = ExpertChoice(typed_launcher).sum(rows, shares.astype(mx.float32), given, wide == dtype)
    tolerance = 1e-6 if dtype == mx.float32 else 1e-2
    assert distance(found.astype(mx.float32), expected.astype(mx.float32)) < tolerance


@pytest.mark.parametrize("missing", [None, 0, 1, 2, 3])
def test_threads_meet_in_shared_memory_at_barriers_only(
    missing: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_barrier(monkeypatch, "choose_experts", missing, 4)
    constants = {"EXPERTS": 130, "TOP": 3, "SIGMOID": 0, "NORMALISES": 1, "FACTOR": 0, "INPUTS": 64}
    library = compile_kernel(CHOOSE, constants, watched=True)
    drawn = [to_numpy(mx.random.normal(shape)) for shape in [(2, 130), (130,), (2, 64), (1, 64)]]
    before = races(library)
    outputs = [np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32), np.zeros(2, np.float32)]
    launch(library, CHOOSE, drawn, outputs, (1, 2))
    assert (races(library) > before) == (missing is not None)
