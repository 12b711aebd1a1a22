"""Quantised keys and values: a pool keeps one token in one head as a row of bytes.

    | codes: a byte for each element, or half a byte | scale, offset of each group of elements |

An element is `code * scale + offset` of its group; the offset is the group's least element. Each token is
quantised by itself, so that its bytes depend on nothing that it shares a batch or a pool with.

Written once for NumPy and MLX: `xp` is either module. On a GPU `engine/attention/kernels/common.h` does the
same.
"""

from dataclasses import dataclass
from typing import Any

UNQUANTISED = 16
"""The `kv_bits` that keep KV in the model's own type."""

GROUPS = (32, 16)
"""Elements that share a scale: the first of these sizes that divides the head's size."""

TINY = 1e-30
"""Divisor in place of a scale of zero, which a group of equal elements has."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How heads of one size are quantised.

    Raises ValueError for codes of other than 4 or 8 bits, and for a head that no group divides.
    """

    dim: int  # elements of a head
    bits: int  # of a code: 8 or 4
    item_bytes: int  # of a scale or an offset, which have the model's type

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
        """Bytes of a row's codes."""
        return self.dim * self.bits // 8

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: its codes, scales and offsets."""
        return self.code_bytes + self.dim // self.group * 2 * self.item_bytes

    def pack(self, xp: Any, elements: Any) -> Any:
        """Quantise (..., dim) floats of the model's type to (..., row_bytes) bytes."""
        lead, max_code = elements.shape[:-1], 2**self.bits - 1
        groups = elements.reshape(*lead, -1, self.group)
        offset, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        wide = groups.astype(xp.float32) - offset.astype(xp.float32)
        scale = (high.astype(xp.float32) - offset.astype(xp.float32)) / max_code
        scale = scale.astype(elements.dtype)
        codes_per_unit = 1 / xp.maximum(scale.astype(xp.float32), TINY)  # by the scale as it is stored
        # NaN and infinity have no code, but show in their group's scale or offset.
        codes = xp.minimum(xp.nan_to_num(wide * codes_per_unit) + 0.5, max_code + 0.5)
        codes = codes.astype(xp.uint8).reshape(*lead, self.dim)
        if self.bits == 4:
            codes = codes[..., ::2] | (codes[..., 1::2] << 4)
        scales = xp.concatenate([scale, offset], axis=-1).reshape(*lead, -1).view(xp.uint8)
        return xp.concatenate([codes, scales], axis=-1)

    def unpack(self, xp: Any, rows: Any, dtype: Any) -> Any:
        """Restore (..., dim) floats of `dtype`, the type that was packed, from (..., row_bytes) bytes."""
        lead, codes = rows.shape[:-1], rows[..., : self.code_bytes]
        scales = rows[..., self.code_bytes :].view(dtype).reshape(*lead, -1, 2).astype(xp.float32)
        if self.bits == 4:
            codes = xp.stack([codes & 15, codes >> 4], axis=-1)
        elements = codes.reshape(*lead, -1, self.group).astype(xp.float32)
        elements *= scales[..., :1]
        elements += scales[..., 1:]
        return elements.reshape(*lead, self.dim).astype(dtype)


def find_packing(dim: int, kv_bits: int, item_bytes: int) -> Packing | None:
    """Return how heads of `dim` elements are quantised; None where KV keeps the model's type.

    item_bytes: of an element of the model's type. Raises ValueError, see Packing.
    """
    return None if kv_bits == UNQUANTISED else Packing(dim, kv_bits, item_bytes)


def row_bytes(dim: int, kv_bits: int, item_bytes: int) -> int:
    """Return the bytes of one token's keys, or of its values, in one head. Raises ValueError, see Packing."""
    packing = find_packing(dim, kv_bits, item_bytes)
    return dim * item_bytes if packing is None else packing.row_bytes
