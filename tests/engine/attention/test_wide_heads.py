"""The kernels' text for heads that are wide or many, and for values of another size than keys or in them."""

import mlx.core as mx
import numpy as np
import pytest

from pensieve.cache.kv import ArrayPools, LayerShape
from pensieve.cache.packing import Packing
from pensieve.engine import selfcheck
from pensieve.engine.attention.kernels import decode_tables, tiles
from pensieve.engine.attention.kernels.geometry import Geometry
from pensieve.engine.attention.kernels.layer_pools import LayerPools
from pensieve.engine.attention.kernels.source import Language
from pensieve.engine.attention.paged_layers import AttentionSpec
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner

from ...budget import sampled, trials
from ...families.random_model import random_model
from .compiled import needs_compiler
from .cpp_kernels import CppKernels
from .kernel_cases import Case
from .test_kernels import SIZES, check, check_slice
from .test_paged_kernels import judge_stems, share_early

pytestmark = needs_compiler


@pytest.mark.parametrize(
    ("dim", "value_dim", "group", "dtype", "bits"),
    sampled(
        [
            (192, 128, 16, "bfloat16", 16),
            (192, 128, 1, "bfloat16", 8),
            (96, 64, 2, "float32", 4),
            (512, 512, 8, "float16", 16),
            (128, 128, 40, "float32", 16),
        ],
        kept=[(192, 128, 1, "bfloat16", 8), (512, 512, 8, "float16", 16)],
    ),
)
def test_values_of_another_size_wide_heads_and_many_are_exact(
    dim: int, value_dim: int, group: int, dtype: str, bits: int
) -> None:
    packing = Packing(dim, bits, SIZES[dtype]) if bits < 16 else None
    check(Case(Geometry(dim, group, SIZES[dtype], packing, value_dim), dtype, [1, 70, 257], 1))


LATENTS = [
    (576, 512, 20, "bfloat16", 16),
    (576, 512, 40, "float16", 8),
    (576, 512, 3, "bfloat16", 4),
    (48, 32, 4, "float32", 16),
]
"""Keys, values that lie in them, and query heads: rows of 576 as models have them, and small ones."""


def latent(dim: int, value_dim: int, group: int, dtype: str, bits: int) -> Geometry:
    packing = Packing(dim, bits, SIZES[dtype]) if bits < 16 else None
    return Geometry(dim, group, SIZES[dtype], packing, value_dim, values_in_keys=True)


@pytest.mark.parametrize(
    ("dim", "value_dim", "group", "dtype", "bits"),
    sampled(LATENTS, kept=[(576, 512, 20, "bfloat16", 16), (48, 32, 4, "float32", 16)]),
)
def test_values_that_lie_in_keys_are_read_in_tiles(
    monkeypatch: pytest.MonkeyPatch, dim: int, value_dim: int, group: int, dtype: str, bits: int
) -> None:
    """Rows alone and the stretches that rows share; the newest keys are stored."""
    for name in ("MIN_SHARED", "MIN_SAVED"):
        monkeypatch.setattr(decode_tables, name, 64)
    monkeypatch.setattr(tiles, "MIN_TILE", 64)
    case = Case(latent(dim, value_dim, group, dtype, bits), dtype, [40, 300, 7], 1)
    case.slot_ranges = [
        ((0, 160), (640, 736), (1024, 1064)),
        ((0, 160), (640, 736), (1088, 1388)),
        ((0, 160), (2048, 2055)),
    ]
    check(case)


@pytest.mark.parametrize(
    ("geometry", "dtype", "language"),
    sampled(
        [
            (Geometry(192, 16, 2, None, 128), "bfloat16", "cuda"),
            (Geometry(512, 8, 2), "float16", "cuda"),
            (Geometry(320, 3, 2), "float16", "metal"),
            (latent(576, 512, 20, "bfloat16", 8), "bfloat16", "cuda"),
            (latent(576, 512, 20, "bfloat16", 16), "bfloat16", "metal"),
            (Geometry(16, 100, 4), "float32", "cpp"),
        ],
        kept=[(Geometry(320, 3, 2), "float16", "metal"), (Geometry(16, 100, 4), "float32", "cpp")],
    ),
)
def test_slices_of_wide_heads_and_of_many_are_exact(
    geometry: Geometry, dtype: str, language: Language
) -> None:
    """In the tiles of each language: Metal's have less memory."""
    case = Case(geometry, dtype, [100], 1)
    case.language = language
    check_slice(case, 9)


SHAPES = [LayerShape(1, 48, 32, mx.float32, 16, values_in_keys=True), LayerShape(2, 24, 16, mx.float32, 16)]


@pytest.mark.parametrize("shape", SHAPES)
def test_launches_for_values_in_keys_and_of_another_size_agree_with_plain_mlx(
    monkeypatch: pytest.MonkeyPatch, shape: LayerShape
) -> None:
    """Decode rows that share a stretch; a prompt's slice where tiles take such heads."""
    for name, value in {"SHARED": 96, "OWN": [1, 40, 33], "SLICE": 20}.items():
        monkeypatch.setattr(selfcheck, name, value)
    for name in ("MIN_SHARED", "MIN_SAVED"):
        monkeypatch.setattr(decode_tables, name, 64)
    spec = AttentionSpec(0, shape, 6, shape.key_dim**-0.5, None, has_sinks=False)
    assert selfcheck._layer_error(spec, CppKernels()) < 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_appended_is_gathered(shape: LayerShape) -> None:
    pools, kernels = ArrayPools([shape], 4), CppKernels()
    new = [
        mx.random.normal((1, shape.num_kv_heads, 40, dim), key=mx.random.key(dim))
        for dim in (shape.key_dim, shape.value_dim)
    ]
    if shape.values_in_keys:
        new[1] = new[0][..., : shape.value_dim]
    slots = mx.array(np.r_[64:96, 0:8].astype(np.int32))
    mx.eval(kernels.append((new[0], new[1]), LayerPools.of(pools, 0), slots))
    for joined, given in zip(kernels.read(LayerPools.of(pools, 0), ((64, 96), (0, 8))), new, strict=True):
        assert mx.array_equal(joined, given[0])


def test_a_latent_model_is_exact_through_the_kernels_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in slices, rows that share stretches, and their own tokens; in C++, thus without graphs."""
    mx.disable_compile()
    share_early(monkeypatch)
    model = random_model("deepseek_v3")
    runner = Runner(probe(model, 16), Capacity(400), False, CppKernels())
    assert runner.caches.attention_backend == "C++ kernels"
    try:
        assert judge_stems(model, runner, max_tokens=trials(3, 12)).wrong == 0
    finally:
        mx.enable_compile()
