"""Blocks of experts with the kernels, their text run in C++, against mlx-lm's own blocks."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import glm4_moe_lite, qwen3_moe, qwen3_next

from pensieve.engine.attention.kernels.source import Kernel
from pensieve.engine.experts import expert_products
from pensieve.engine.experts.block_forms import PARTS, BlockKernels, block_form, block_forms
from pensieve.engine.experts.expert_choice import ExpertChoice
from pensieve.engine.experts.expert_pairs import ExpertKernels
from pensieve.engine.joint_projections import join_projections
from pensieve.engine.transposed_linear import transpose_linears

from ..attention.compiled import needs_compiler
from ..attention.noted_kernels import LAUNCH, Graph, NotedKernels
from ..attention.typed_kernels import typed_launcher
from ..recurrent.token_loops import distance
from ..test_operations import operations

pytestmark = needs_compiler


def arguments(**more: Any) -> Any:
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
    return SimpleNamespace(**sizes, num_experts=6, norm_topk_prob=True, **more)


def qwen3() -> Any:
    return qwen3_moe.Qwen3MoeSparseMoeBlock(arguments())


def qwen3_next_block() -> Any:
    return qwen3_next.Qwen3NextSparseMoeBlock(arguments(shared_expert_intermediate_size=32))


def glm(n_group: int = 1) -> Any:
    defaults = vars(glm4_moe_lite.ModelArgs())
    given = vars(arguments()) | {"n_routed_experts": 6, "n_shared_experts": 2, "n_group": n_group}
    block: Any = glm4_moe_lite.Glm4MoeLiteMoE(SimpleNamespace(**(defaults | given)))  # type: ignore[arg-type]
    block.gate.weight = mx.random.normal((6, 64))
    block.gate.e_score_correction_bias = mx.random.normal((6,)) * 0.1
    return block


BLOCKS = {"qwen3_moe": qwen3, "qwen3_next": qwen3_next_block, "glm4_moe_lite": glm}


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLX's CPU device gathers float32 only, which CUDA's kernel does not serve."""
    monkeypatch.setattr(expert_products, "DTYPES", (mx.float32,))
    mx.disable_compile()
    yield
    mx.enable_compile()


def kernels() -> BlockKernels:
    return BlockKernels(ExpertKernels.declare(typed_launcher), ExpertChoice(typed_launcher))


def fail(*_: Any) -> Any:
    raise AssertionError("left to mlx-lm")


@pytest.mark.parametrize("shape", [(3, 1, 64), (1, 4, 64)], ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_compute_the_same_with_the_kernels(kind: str, shape: tuple[int, ...]) -> None:
    block = BLOCKS[kind]()
    x = mx.random.normal(shape)
    found = block_form(kernels(), fail)(block, x)
    assert distance(found, block(x)) < 2e-6
    assert found.shape == x.shape


@pytest.mark.parametrize("reason", ["groups", "quantised", "other precision"])
def test_what_the_kernels_do_not_serve_is_left_to_mlx_lm(reason: str) -> None:
    block = glm(n_group=2) if reason == "groups" else qwen3()
    x = mx.random.normal((1, 3, 64))
    if reason == "quantised":
        nn.quantize(block, 32, 8)
    if reason == "other precision":
        x = x.astype(mx.float16)
    assert block_form(kernels(), lambda *_: "theirs")(block, x) == "theirs"


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks = [make() for make in BLOCKS.values()]


def test_kernels_are_used_if_they_compute_the_models_own_blocks() -> None:
    found = block_forms(typed_launcher, ExpertKernels.declare(typed_launcher), Blocks())
    assert set(found) == {f"{each.__name__}.__call__" for each in PARTS}
    assert not block_forms(typed_launcher, ExpertKernels.declare(typed_launcher), nn.Linear(2, 2))


@pytest.mark.parametrize("wrong", ["choose_experts", "sum_experts"])
def test_kernels_that_compute_wrongly_are_not_used(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    def launcher(kernel: Kernel, *more: Any) -> Any:
        right = typed_launcher(kernel, *more)

        def run(**arguments: Any) -> list[mx.array]:
            first, *others = right(**arguments)
            return [first * 0 if kernel.name == wrong else first, *others]

        return run

    assert block_forms(launcher, ExpertKernels.declare(typed_launcher), Blocks()) == {}
    assert "compute wrongly" in caplog.text


class OneBlock(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.block = block

    def __call__(self, tokens: mx.array) -> mx.array:
        out: mx.array = self.block(mx.zeros((*tokens.shape, 64)))
        return out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("qwen3_moe", {"Matmul": 1, LAUNCH: 4}),
        ("qwen3_next", {"Matmul": 3, LAUNCH: 4, "Compiled": 1}),
        ("glm4_moe_lite", {"Matmul": 3, LAUNCH: 4, "Compiled": 1}),
    ],
)
def test_a_block_of_a_decode_step_queues_so_many_operations(
    kind: str, expected: dict[str, int], tmp_path: Path
) -> None:
    """Of mlx-lm's own blocks 12 and 17, and copies that are no nodes of the graph."""
    noted = NotedKernels("cpp").launcher
    kernels = BlockKernels(ExpertKernels.declare(noted), ExpertChoice(noted))
    mx.enable_compile()
    model: Any = OneBlock(BLOCKS[kind]())
    x = mx.random.normal((3, 1, 64))
    join_projections(model)
    transpose_linears(model)
    mx.eval(model.parameters(), x)
    block = model.block
    step = mx.compile(lambda x: block_form(kernels, fail)(block, x))
    assert operations(Graph(tmp_path / "graph", [step(x)], {})) == expected
