"""Norms and rotations of heads that decode passes leave to a kernel."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest
from mlx_lm.models.rope_utils import Llama3RoPE

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.engine import decode_graphs
from pensieve.engine.attention.folded_norm import FoldedNorm, fold_norms
from pensieve.engine.attention.kernels.layer_kernels import Launch
from pensieve.engine.attention.kernels.source import THREADS, Kernel
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.attention.rotation import ROTATE, Deferrable, Deferral, Rotation
from pensieve.engine.fused_model import fuse, unfuse, without_rotations
from pensieve.engine.joint_projections import JointPart
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, SamplingParams

from ...models import write_model
from ..harness import judge_trees
from .compiled import compile_kernel, from_bits, launch, needs_compiler, races, to_bits
from .cpp_kernels import CppKernels
from .missing_barrier import leave_out_barrier
from .noted_kernels import NotedKernels
from .plain_kernels import PlainKernels, PlainRunner, rotated_by_mlx

ROUNDING = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 2e-2}
POSITIONS = [0, 1, 37, 400]


def norms(dim: int, dtype: str) -> tuple[nn.RMSNorm, nn.RMSNorm]:
    found = nn.RMSNorm(dim, 1e-3), nn.RMSNorm(dim, 1e-2)
    for seed, norm in enumerate(found):
        norm.weight = mx.random.normal((dim,), key=mx.random.key(seed)).astype(getattr(mx, dtype))
    return found


def llama3(dim: int) -> Llama3RoPE:
    return Llama3RoPE(dim, base=1e4, scaling_config={"factor": 8.0, "original_max_position_embeddings": 64})


def in_kernel(rotation: Rotation, three: list[Any], dtype: str, watched: bool = False) -> list[Any]:
    """Run the kernel's text on bits of `dtype`, over parts of one matrix."""

    def run(inputs: list[Any], template: Any, grid: Any, **_: Any) -> list[Any]:
        constants = {name: int(value) for name, value in template if name != "T"}
        library = compile_kernel(ROTATE, constants, dtype=dtype, watched=watched)
        as_bits = [
            given if isinstance(given, np.ndarray) else bits_of(given, dtype if 3 <= i < 5 else "float32")
            for i, given in enumerate(inputs)
        ]
        outputs = [np.zeros(each.shape, each.dtype) for each in three]
        before = races(library) if watched else 0
        launch(library, ROTATE, as_bits, outputs, (grid[0] // THREADS, grid[1]))
        assert not watched or races(library) == before, "threads race"
        return outputs

    positions = np.array(POSITIONS, np.int32)
    found: Any = rotation.apply(run, tuple(three), positions)  # type: ignore[arg-type]
    return list(found)


def bits_of(array: mx.array, dtype: str) -> Any:
    return to_bits(np.array(array.astype(mx.float32)), dtype)


def check(rope: Any, dim: int, dtype: str, has_norms: bool, watched: bool = False) -> None:
    heads, kv_heads = 6, 2
    matrix = np.random.default_rng(dim).standard_normal((len(POSITIONS), 1, (heads + 2 * kv_heads) * dim))
    whole = to_bits(matrix.astype(np.float32), dtype)
    bounds = [0, heads * dim, (heads + kv_heads) * dim, (heads + 2 * kv_heads) * dim]
    three = [
        whole[..., start:end].reshape(len(POSITIONS), 1, -1, dim).swapaxes(1, 2)
        for start, end in pairwise(bounds)
    ]
    assert not three[0].flags.c_contiguous
    rotation = Rotation.of(Deferral(), rope, norms(dim, dtype) if has_norms else None)
    found = in_kernel(rotation, three, dtype, watched)
    assert (found[2] == three[2]).all(), "values are copied"
    for place in range(2):
        given = mx.array(from_bits(three[place], dtype)).astype(getattr(mx, dtype))
        expected = rotated_by_mlx(rotation, place, given, mx.array(POSITIONS)).astype(mx.float32)
        error = np.abs(from_bits(found[place], dtype) - np.array(expected)).max()
        assert error < ROUNDING[dtype] * float(mx.abs(expected).max())


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("rope", "dim", "has_norms"),
    [
        (nn.RoPE(128, base=1e6), 128, True),
        (nn.RoPE(64, traditional=True, scale=0.25), 64, False),
        (nn.RoPE(32), 80, True),
        (llama3(256), 256, False),
    ],
)
def test_the_kernel_does_what_the_model_does(rope: Any, dim: int, has_norms: bool, dtype: str) -> None:
    """Whole heads and parts of them, pairs of neighbours and of halves, periods of their own."""
    check(rope, dim, dtype, has_norms)


@needs_compiler
def test_threads_meet_at_barriers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = nn.RoPE(32)
    check(rope, 80, "float32", has_norms=True, watched=True)
    for number in range(3):
        with monkeypatch.context() as patch:
            leave_out_barrier(patch, ROTATE.name, number, 3)
            with pytest.raises(AssertionError, match="threads race"):
                check(rope, 80, "float32", has_norms=True, watched=True)


def load(folder: Path, model_type: str) -> Any:
    return mlx_lm.utils.load_model(write_model(folder / model_type, model_type))[0]


@pytest.mark.parametrize(
    ("model_type", "rotated", "normed", "joint"),
    [
        ("llama", 3, 0, 3),
        ("qwen3", 3, 3, 3),
        ("phi3", 3, 0, 0),  # one matrix by itself
        ("gemma3_text", 3, 3, 3),  # norms of its own, folded
        ("olmo3", 3, 0, 0),  # norms of all heads at once
        ("exaone4", 2, 2, 2),  # one layer without rotation
        ("cohere2", 0, 0, 0),  # casts between rotation and attention
        ("ministral3", 0, 0, 0),  # scales between them
    ],
)
def test_rotations_are_deferred_where_nothing_comes_between(
    tmp_path: Path, model_type: str, rotated: int, normed: int, joint: int
) -> None:
    model = load(tmp_path, model_type)
    plain = probe(model, 16)
    paged = fuse(plain)
    rotations = [spec.rotation for spec in paged.layers if spec.rotation is not None]
    assert len(rotations) == rotated
    assert sum(rotation.weights is not None for rotation in rotations) == normed
    deferrables = [module for module in model.modules() if isinstance(module, Deferrable)]
    assert len(deferrables) == rotated + 2 * normed
    assert sum(isinstance(module.get("q_proj"), JointPart) for module in model.modules()) == joint
    assert without_rotations(paged).layers == plain.layers
    unfuse(model)
    replaced = Deferrable | JointPart | FoldedNorm
    assert not [module for module in model.modules() if isinstance(module, replaced)]


def test_gemmas_norms_are_folded_and_give_the_same(tmp_path: Path) -> None:
    model, others = load(tmp_path, "gemma3_text"), load(tmp_path, "qwen3")
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            module.weight = mx.random.normal(module.weight.shape, key=mx.random.key(3))
    tokens = mx.array([[5, 6, 7]])
    expected = model(tokens)
    assert fold_norms(model) == 3 * 6 + 1
    assert (model(tokens) == expected).all()
    assert fold_norms(others) == 0


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "exaone4"])
def test_deferred_rotations_change_no_token(tmp_path: Path, model_type: str) -> None:
    """In compiled graphs too; the judge is the same model, whose own passes compute as before."""
    model = load(tmp_path, model_type)
    runner = PlainRunner(fuse(probe(model, 16)), Capacity(400), False, PlainKernels())
    assert judge_trees(model, runner, 2).wrong == 0


@needs_compiler
@pytest.mark.parametrize("model_type", ["qwen3", "phi3"])
def test_the_kernels_text_under_the_runner_is_exact_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    monkeypatch.setattr(decode_graphs, "MAX_FAILURES", 0)
    model = load(tmp_path, model_type)
    runner = Runner(fuse(probe(model, 16)), Capacity(400), False, CppKernels())
    assert judge_trees(model, runner, 2).wrong == 0


class SizingKernels(NotedKernels):
    """Note which inputs of which kernels were small, and which were not."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], set[bool]] = {}
        super().__init__("metal")

    def _build(self, kernel: Kernel, scale: float, workspace_bytes: int = 0) -> Launch:
        launch = super()._build(kernel, scale, workspace_bytes)

        def noted(inputs: list[mx.array], **options: Any) -> list[mx.array]:
            for name, array in zip(kernel.inputs, inputs, strict=True):
                self.found.setdefault((kernel.name, name), set()).add(array.size < MIN_KERNEL_ELEMENTS)
            return launch(inputs, **options)

        return noted


def test_no_input_of_a_kernel_is_small_in_some_batches_only(tmp_path: Path) -> None:
    """Metal reads small inputs from another address space: from another text, which it compiled each time.

    It did so for the positions whenever a batch came to eight rows, or to fewer again.
    """
    kernels = SizingKernels()
    runner = Runner(fuse(probe(load(tmp_path, "qwen3"), 16)), Capacity(64), False, kernels)
    for count in (1, 3, 8, 20):
        slots = [32 * row for row in range(count)]
        runner.logits([DecodeRow(slot, 7, 5, ((slot, slot + 6),), SamplingParams()) for slot in slots])
    assert ("rotate", "positions") in kernels.found
    assert [names for names, are_small in kernels.found.items() if len(are_small) > 1] == []


def test_without_rotations_every_pass_computes_its_own(tmp_path: Path) -> None:
    model = load(tmp_path, "qwen3")
    runner = PlainRunner(without_rotations(fuse(probe(model, 16))), Capacity(400), False, PlainKernels())
    assert judge_trees(model, runner, 1).wrong == 0
