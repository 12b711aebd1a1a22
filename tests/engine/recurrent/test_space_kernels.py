"""The kernels of Mamba 2's state spaces, their text run in C++, against mlx-lm's operations."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.ssm import ssm_attn

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.recurrent.array_forms import array_space_form
from pensieve.engine.recurrent.space_call import SpaceCall
from pensieve.engine.recurrent.space_kernels import SpaceKernels, usable_space_kernels

from ...budget import sampled
from ..attention.compiled import needs_compiler
from ..attention.missing_barrier import leave_out_barrier
from ..attention.typed_kernels import TypedLauncher, typed_launcher
from .token_loops import distance

pytestmark = needs_compiler

ROUNDING = {mx.float32: 5e-5, mx.bfloat16: 1e-2}

BARRIERS = {"ssm_prepare": 2, "ssm_scan": 2}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def draw_call(shape: tuple[int, ...], dtype: mx.Dtype = mx.float32, time_factor: float = 1.0) -> SpaceCall:
    """shape: rows, tokens, heads, groups, head dim, state dim."""
    rows, tokens, heads, groups, head_dim, state_dim = shape
    shapes = [(rows, tokens, heads, head_dim), (heads,), *2 * [(rows, tokens, groups, state_dim)]]
    shapes += [(heads,), (rows, tokens, heads), (heads,)]
    drawn = [mx.random.normal(each, key=mx.random.key(i)).astype(dtype) for i, each in enumerate(shapes)]
    hidden, log_rates, writes, reads, skips, times, bias = drawn
    writes, times = writes * state_dim**-0.5, times * time_factor
    state = mx.random.normal((rows, heads, head_dim, state_dim), key=mx.random.key(9))
    return SpaceCall(hidden, log_rates, writes, reads, skips, times, bias, state, (0.001, 8.0))


def expected(call: SpaceCall) -> tuple[mx.array, mx.array]:
    """What mlx-lm's operations make of the same numbers in float32, with rates that are rounded as theirs."""
    rates = mx.log(mx.exp(call.log_rates).astype(mx.float32))
    hidden, writes, reads, skips, times, bias = (
        array.astype(mx.float32)
        for array in (call.hidden, call.writes, call.reads, call.skips, call.times, call.bias)
    )
    return ssm_attn(hidden, rates, writes, reads, skips, times, bias, call.state, call.limits)


@pytest.mark.parametrize(
    ("shape", "tile", "dtype"),
    sampled(
        [
            ((3, 1, 4, 2, 40, 64), 16, mx.float32),
            ((2, 131, 4, 2, 40, 64), 16, mx.float32),
            ((1, 70, 2, 1, 64, 128), 16, mx.bfloat16),
            ((3, 1, 6, 2, 64, 128), 16, mx.bfloat16),
            ((1, 64, 2, 2, 32, 96), 32, mx.float32),
            ((1, 9, 2, 1, 24, 256), 32, mx.bfloat16),
        ],
        kept=[((3, 1, 4, 2, 40, 64), 16, mx.float32), ((1, 70, 2, 1, 64, 128), 16, mx.bfloat16)],
    ),
)
def test_kernels_compute_what_mlx_lm_computes(shape: tuple[int, ...], tile: int, dtype: mx.Dtype) -> None:
    call = draw_call(shape, dtype)
    found, right = SpaceKernels(typed_launcher, tile).run(call), expected(call)
    assert found[0].dtype == dtype
    assert distance(found[0].astype(mx.float32), right[0]) < ROUNDING[dtype]
    assert distance(found[1], right[1]) < ROUNDING[mx.float32], "states stay in float32"


@pytest.mark.parametrize("time_factor", [0.0, 60.0], ids=["short times", "times at their limits"])
def test_a_prompt_cut_anywhere_leaves_the_same_state(time_factor: float) -> None:
    whole = draw_call((1, 150, 2, 1, 16, 32), time_factor=time_factor)
    kernels = SpaceKernels(typed_launcher)
    out, state = kernels.run(whole)
    parts, before = [], whole.state
    for first, end in pairwise([0, 1, 50, 137, 150]):
        names = ("hidden", "writes", "reads", "times")
        part = replace(whole, state=before, **{name: getattr(whole, name)[:, first:end] for name in names})
        read, before = kernels.run(part)
        parts.append(read)
    for found in [(mx.concatenate(parts, axis=1), before), expected(whole)]:
        assert distance(found[0], out) < ROUNDING[mx.float32]
        assert distance(found[1], state) < ROUNDING[mx.float32]


@pytest.mark.parametrize(
    ("kernel", "number"),
    sampled(
        [(kernel, number) for kernel, count in BARRIERS.items() for number in [None, *range(count)]],
        kept=[("ssm_prepare", None), ("ssm_scan", 1)],
    ),
)
def test_threads_meet_in_shared_memory_at_barriers_only(
    monkeypatch: pytest.MonkeyPatch, kernel: str, number: int | None
) -> None:
    """number: of a barrier that is left out, which a count of races then shows."""
    leave_out_barrier(monkeypatch, kernel, number, BARRIERS[kernel])
    launcher = TypedLauncher(watched=True)
    SpaceKernels(launcher).run(draw_call((1, 140, 1, 1, 16, 32)))
    assert (launcher.races > 0) == (number is not None)


def test_kernels_that_compute_wrongly_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def launcher(kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Any:
        def run(output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            return [mx.ones(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return run

    assert usable_space_kernels(launcher) is None
    assert "compute wrongly" in caplog.text


def test_calls_that_the_kernels_are_not_made_for_are_left_to_mlx_lm() -> None:
    form = array_space_form(SpaceKernels(typed_launcher), lambda *_: ("theirs", "theirs"))
    call = draw_call((1, 2, 2, 1, 8, 32))

    def answer(call: SpaceCall, **more: Any) -> Any:
        tokens = (call.hidden, call.log_rates, call.writes, call.reads, call.skips, call.times, call.bias)
        return form(*tokens, call.state, call.limits, **more)[0]

    assert distance(answer(call), expected(call)[0]) < ROUNDING[mx.float32]
    many = replace(call, hidden=mx.broadcast_to(call.hidden, (40_000, *call.hidden.shape[1:])))
    assert not SpaceKernels(typed_launcher).serves(many), "a grid on CUDA is no larger"
    others = [draw_call((1, 2, 2, 1, *dims)) for dims in product([8, 12], [32, 40])][1:]
    others.append(replace(call, state=call.state.astype(mx.bfloat16)))
    assert [answer(other) for other in others] == ["theirs"] * len(others)
    assert answer(call, mask=mx.ones((1, 2))) == "theirs"
