"""What a kernel may ask of a device, for heads of every size."""

from itertools import product

from pensieve.cache.packing import Packing
from pensieve.engine.attention.kernels.geometry import METAL_GROUP_BYTES, Geometry, TileGeometry
from pensieve.engine.attention.kernels.source import Language

LANGUAGES: tuple[Language, ...] = ("metal", "cuda")


def heads(*bits: int | None) -> list[Geometry]:
    found = [
        Geometry(dim, 4, size, None if each is None else Packing(dim, each, size))
        for dim, size, each in product(range(16, 257, 16), (2, 4), bits)
    ]
    return [head for head in found if head.has_splits]


def test_chunks_of_quantised_heads_are_loaded_where_they_are_aligned() -> None:
    """CUDA stops at other loads. A head of 96 elements in 8 bits takes 108 bytes: no multiple of 8."""
    for head in heads(8, 4):
        assert head.packing is not None
        for tiling in (TileGeometry(head, language, True) for language in LANGUAGES):
            for vector in (head.vector, tiling.vector):
                chunk = vector * head.packing.bits // 8
                assert chunk >= 1
                assert head.packing.row_bytes % chunk == 0
                assert head.dim % vector == 0


def test_tiles_on_metal_fit_a_groups_memory() -> None:
    """Else the pipeline fails, and with it all kernels. Heads of 256 elements of float32 do not fit."""
    for head, is_slice in product(heads(None), (False, True)):
        tiling = TileGeometry(head, "metal", is_slice)
        assert tiling.is_supported == ((head.dim, head.itemsize) != (256, 4))
        assert not tiling.is_supported or tiling.workspace_bytes <= METAL_GROUP_BYTES
