"""Quantised keys and values: what a token keeps of one head, as a row of bytes.

    | codes: a byte for each element, or half a byte | scale, offset of each group of elements |

An element is `code * scale + offset` of its group; the offset is the group's least element. Each token is
quantised by itself, so that its bytes depend on nothing that it shares a batch or a pool with.

Written once for NumPy and MLX: `xp` is either module. The kernels (`engine/kernels/common.h`) do the same.
"""

from dataclasses import dataclass
from typing import Any

GROUPS = (32, 16)
"""Elements that share a scale; the first of these that divides the head."""

TINY = 1e-30
"""Stands for a scale of zero, of elements that are all equal."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the heads of one size are kept. Raises ValueError for a size that no group divides."""

    dim: int
    bits: int  # of a code: 8 or 4
    item_bytes: int  # of a scale, which has the model's type

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"{self.bits}-bit KV")
        if self.dim % GROUPS[-1]:
            raise ValueError(
                f"quantised KV needs heads of a multiple of {GROUPS[-1]} elements, not {self.dim}"
            )

    @property
    def group(self) -> int:
        """Elements that share a scale."""
        return next(size for size in GROUPS if self.dim % size == 0)

    @property
    def code_bytes(self) -> int:
        return self.dim * self.bits // 8

    @property
    def row_bytes(self) -> int:
        return self.code_bytes + self.dim // self.group * 2 * self.item_bytes

    def pack(self, xp: Any, elements: Any) -> Any:
        """(..., dim) floats of the model's type -> (..., row_bytes) bytes."""
        lead, top = elements.shape[:-1], 2**self.bits - 1
        groups = elements.reshape(*lead, -1, self.group)
        low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        wide = groups.astype(xp.float32) - low.astype(xp.float32)
        scale = ((high.astype(xp.float32) - low.astype(xp.float32)) / top).astype(elements.dtype)
        codes_per_unit = 1 / xp.maximum(scale.astype(xp.float32), TINY)  # of the scale as it is stored
        # NaN and infinity have no code, but are in the scale or the offset as well, and so show.
        codes = xp.minimum(xp.nan_to_num(wide * codes_per_unit) + 0.5, top + 0.5)
        codes = codes.astype(xp.uint8).reshape(*lead, self.dim)
        if self.bits == 4:
            codes = codes[..., ::2] | (codes[..., 1::2] << 4)
        fits = xp.concatenate([scale, low], axis=-1).reshape(*lead, -1).view(xp.uint8)
        return xp.concatenate([codes, fits], axis=-1)

    def unpack(self, xp: Any, rows: Any, dtype: Any) -> Any:
        """(..., row_bytes) bytes -> (..., dim) floats of `dtype`, the type that was packed."""
        lead, codes = rows.shape[:-1], rows[..., : self.code_bytes]
        fits = rows[..., self.code_bytes :].view(dtype).reshape(*lead, -1, 2).astype(xp.float32)
        if self.bits == 4:
            codes = xp.stack([codes & 15, codes >> 4], axis=-1)
        elements = codes.reshape(*lead, -1, self.group).astype(xp.float32)
        elements *= fits[..., :1]
        elements += fits[..., 1:]
        return elements.reshape(*lead, self.dim).astype(dtype)
