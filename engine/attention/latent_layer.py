"""Latent attention (MLA, DeepSeek-V2 2024): a layer keeps one row a token, from which all heads read.

A row is a latent, of which each head makes its key and its value by a matrix, then a rotated key that all
heads share. mlx-lm's models cache the two parts as keys and values of one head. For a prompt they make every
head's keys and values of all cached latents; for one token they apply the matrices to the query and to the
attention's output instead. Here `LatentLayer` lets them apply the matrices only to a unit matrix: what then
reaches the attention says how the model's heads act on a row, and one formula serves prompts and tokens:

    score = row @ (scale * keys^T query + mask),    output = values^T (sum of weights * latent)
"""

from dataclasses import dataclass

import mlx.core as mx

from .array_attention import AttentionParams
from .paged_layers import PagedLayer


@dataclass(frozen=True, eq=False, slots=True)
class LatentRow:
    """The unit matrix of a layer's rows, cut as its rows are; what the model gets in place of cached rows."""

    latents: mx.array  # (1, 1, row, latent)
    rotated: mx.array  # (1, 1, row, rest)

    @classmethod
    def of(cls, latents: mx.array, rotated: mx.array) -> "LatentRow":
        """Return the unit matrix for rows of which some are given, (rows, 1, length, part)."""
        rank = latents.shape[3]
        unit = mx.eye(rank + rotated.shape[3], dtype=latents.dtype)[None, None]
        parts = cls(mx.contiguous(unit[..., :rank]), mx.contiguous(unit[..., rank:]))
        mx.eval(parts.latents, parts.rotated)  # else a compiled pass would compute them each time
        return parts


class LatentLayer(PagedLayer):
    """Stands for a latent layer's cache, over an ordinary layer of one KV head whose keys are whole rows."""

    def __init__(self, inner: PagedLayer, row: LatentRow) -> None:
        """inner: attends to the rows; a token's values are the first elements of its row."""
        self._inner = inner
        self._unit = row
        self._rows: mx.array | None = None  # the new tokens', (rows, 1, length, row)
        self.window = None
        self.offset = inner.offset

    def update_and_fetch(self, latents: mx.array, rotated: mx.array) -> tuple[mx.array, mx.array]:
        """Note the new rows; return the unit matrix's parts."""
        self._rows = mx.concatenate([latents, rotated.astype(latents.dtype)], axis=-1)
        return self._unit.latents, self._unit.rotated

    def answer(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        params: AttentionParams,
        mask: mx.array | None,
    ) -> mx.array:
        """Store the new rows and attend to all of them.

        keys, values: what the model makes of the unit matrix. mask: the shared key's part of the scores that
        the unit matrix has, (rows, heads, length, row), where the model adds it to the scores; else None.
        """
        assert self._rows is not None, "a layer keeps its tokens before it attends"
        rank = self._unit.latents.shape[3]
        scaled = queries * params.scale
        if keys is self._unit.latents and mask is not None:  # the model has applied its matrices itself
            absorbed = mx.concatenate([scaled, mask[..., rank:]], axis=-1)
        else:
            absorbed = scaled @ keys.swapaxes(-1, -2)
            absorbed = absorbed if mask is None else absorbed + mask
        rows = self._rows
        out = self._inner.attend(absorbed.astype(rows.dtype), rows, rows[..., :rank], AttentionParams(1.0))
        return out if values is self._unit.latents else out @ values[..., :rank, :]

    def divided(self) -> list[tuple[PagedLayer, slice]]:
        """Return layers for parts of the rows; see PagedLayer."""
        return [(LatentLayer(inner, self._unit), rows) for inner, rows in self._inner.divided()]
