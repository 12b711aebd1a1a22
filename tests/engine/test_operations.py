"""How many operations MLX queues for a decode step: each takes the host about 10 us on a GPU.

Counted in MLX's graph of the compiled pass. Norms and rotations are kernels of MLX's on a GPU only, and stand
here as launches, as Pensieve's own kernels do. Copies that an operation makes of an input that lies with gaps
in memory are no nodes of the graph and are not counted.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.models import qwen3_5, qwen3_next
from mlx_lm.models.cache import ArraysCache

from pensieve.cache.kv import MIN_KERNEL_ELEMENTS, ArrayPools
from pensieve.engine import sampler
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.fused_model import fuse
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.pass_functions import PassFunctions, Replacement
from pensieve.engine.recurrent.kernel_states import KernelStates
from pensieve.engine.recurrent.layer_prompt import LayerPrompt
from pensieve.engine.recurrent.layer_step import LayerStep, find_layers, layer_form
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, SamplingParams, StateSlots

from ..models import write_model
from .attention.noted_kernels import LAUNCH, VIEWS, Graph, NotedKernels
from .recurrent.test_layer_step import layer_of
from .recurrent_models import recurrent_model

FREE = (*VIEWS, "Reshape", "Flatten", "Split", "Full")
"""Primitives that queue nothing. A reshape of whole rows is a view; "Full" is the result of a launch here."""


def launch(*inputs: mx.array, like: mx.array) -> mx.array:
    """A launch whose result has the shape of `like`."""
    found: list[mx.array] = mx.depends([mx.zeros(like.shape, like.dtype)], list(inputs))
    return found[0]


def noted_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    return launch(*(array for array in (x, weight) if array is not None), like=x)


def noted_rope(x: mx.array, dims: int, **options: Any) -> mx.array:
    given = [options[name] for name in ("offset", "freqs") if isinstance(options.get(name), mx.array)]
    return launch(x, *given, like=x)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "rms_norm", noted_norm)
    monkeypatch.setattr(mx.fast, "rope", noted_rope)
    compiled = {each: mx.compile(each) for each in (sampler._greedy, sampler._draw, sampler._draw_filtered)}
    monkeypatch.setattr(sampler, "_compiled_on_metal", compiled.__getitem__)


def rows(num_rows: int, sampling: SamplingParams) -> list[DecodeRow]:
    return [DecodeRow(i, 7, 40 + i, ((128 * i, 128 * i + 41 + i),), sampling) for i in range(num_rows)]


def step_graph(folder: Path, model_type: str, layers: int, sampling: SamplingParams) -> Graph:
    """MLX's graph of a decode step of three rows, when its pass has been compiled."""
    path = write_model(folder / f"{model_type}{layers}", model_type, layers=layers)
    paged = fuse(probe(mlx_lm.utils.load_model(path)[0], 16))
    runner, batch = Runner(paged, Capacity(16), False, NotedKernels("cpp")), rows(3, sampling)
    pools = runner.caches.pools
    assert isinstance(pools, ArrayPools)
    with pytest.MonkeyPatch.context() as monkeypatch:
        as_on_a_gpu(monkeypatch)
        for _ in range(3):
            pools.write_fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in pools.write_fences]
            mx.eval(pools.arrays(), pools.write_fences)
            logits = runner.logits(batch)
        return Graph(folder / "graph", [sampler.sample_on_device(logits, batch), *pools.write_fences], {})


def step_of_recurrent_layers(folder: Path, has_kernel: bool) -> Graph:
    """MLX's graph of a decode step of three rows, with two gated delta layers of four."""
    kernels, batch = NotedKernels("cpp"), rows(3, SamplingParams())
    batch = [row._replace(state=StateSlots(2 * i, 2 * i + 1)) for i, row in enumerate(batch)]
    paged = fuse(probe(recurrent_model("qwen3_next"), 16))
    if has_kernel:
        step, layers = LayerStep(kernels.launcher), find_layers(paged.model)
        kinds = [(kind, kind.__call__) for kind in layers]
        found = tuple(
            Replacement(kind, "__call__", call, layer_form(step, None, call)) for kind, call in kinds
        )
        paged = replace(paged, functions=PassFunctions(found, num_slot_layers=2))
    runner = Runner(paged, Capacity(16, 6), False, kernels)
    pools, states = runner.caches.pools, runner.caches.states
    assert isinstance(pools, ArrayPools)
    assert isinstance(states, KernelStates)
    with pytest.MonkeyPatch.context() as monkeypatch:
        as_on_a_gpu(monkeypatch)
        for _ in range(3):
            pools.write_fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in pools.write_fences]
            states._fences = [mx.zeros((MIN_KERNEL_ELEMENTS,)) for _ in states._fences]
            states._latest = []
            mx.eval(pools.arrays(), pools.write_fences, states.arrays())
            logits = runner.logits(batch)
        return Graph(folder / f"graph{has_kernel}", [logits, *pools.write_fences, *states.arrays()], {})


def operations(graph: Graph) -> Counter[str]:
    """The operations of each kind. A function that is compiled by itself is one node for all of its calls."""
    found: Counter[str] = Counter()
    for node, primitive in graph.primitives.items():
        if primitive.startswith("Compiled"):
            found["Compiled"] += len(graph.outputs[node])
        elif primitive not in FREE:
            found[primitive] += 1
    return found


def num_views(graph: Graph) -> int:
    """How many nodes queue nothing, but for the zeros, broadcast, that stand for a norm's result here."""
    kinds = Counter(graph.primitives.values())
    return sum(kinds[primitive] for primitive in FREE) - 2 * kinds["Full"]


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "phi3"])
def test_a_layer_of_a_decode_step_queues_so_many_operations(tmp_path: Path, model_type: str) -> None:
    """Norm, heads, rotation, attention, output, sum; norm, gate and up, activation, down, sum.

    Attention is two launches. By themselves these models queue 16 to 18, among them copies that are no nodes.
    """
    few, more = (step_graph(tmp_path, model_type, count, SamplingParams()) for count in (2, 3))
    assert operations(more) - operations(few) == {"Matmul": 4, LAUNCH: 5, "Compiled": 1, "Add": 2}
    assert num_views(more) - num_views(few) <= 13, "each costs the host about a tenth of an operation"


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingParams(), 3),
        (SamplingParams(temperature=1.0), 6),
        (SamplingParams(temperature=1.0, top_p=0.9), 15),
    ],
)
def test_sampling_queues_so_many_operations(tmp_path: Path, sampling: SamplingParams, expected: int) -> None:
    two, three = (operations(step_graph(tmp_path, "llama", count, sampling)) for count in (2, 3))
    rest = two - (three - two) - (three - two)
    model_own = {"Gather": 1, LAUNCH: 1, "Matmul": 1}  # embedding, last norm, logits
    assert (rest - Counter(model_own)).total() == expected, rest


def test_a_kernel_of_a_gated_delta_layer_saves_so_many_operations(tmp_path: Path) -> None:
    """For each of two layers 19, and six that read and write two arrays of states.

    The 19 are the convolution, norms, gates, the delta rule, and copies between them.
    """
    without, with_kernel = (operations(step_of_recurrent_layers(tmp_path, each)) for each in (False, True))
    assert (without - with_kernel).total() == 2 * (19 + 6)
    assert not with_kernel - without


@pytest.mark.parametrize(
    ("kind", "projections"), [(qwen3_5.GatedDeltaNet, 5), (qwen3_next.Qwen3NextGatedDeltaNet, 3)]
)
def test_a_slice_of_a_prompt_queues_so_many_operations_in_a_gated_delta_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, projections: int
) -> None:
    """Convolution, two for the rule, norm, gate. With the rule in plain MLX they are some 360."""
    as_on_a_gpu(monkeypatch)
    layer = layer_of(kind, (128, 128), (2, 4), mx.bfloat16)
    cache: Any = ArraysCache(2)
    mx.eval(layer.parameters())
    out = LayerPrompt(NotedKernels("cpp").launcher).run(layer, mx.zeros((1, 2048, 64), mx.bfloat16), cache)
    assert out is not None
    found = operations(Graph(tmp_path / "graph", [out, *cache.cache], {}))
    assert found == {"Matmul": projections, LAUNCH: 4, "Compiled": 1}
