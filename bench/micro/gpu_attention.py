"""Decode attention alone on a GPU, with KV of 16, 8 and 4 bits.

    python -m pensieve.bench.micro.gpu_attention [--kv-heads 8] [--group 4] [--dim 128] [--kv-bits 16 8 4]

Queries and KV are random bf16. There are as many layers as a Qwen3-4B has, each with pools of its own, so
that no cache holds them all. Milliseconds are of all layers and include storing the newest token; in brackets
are the bytes of KV read a second. `distance` is a row's largest relative distance to plain MLX in float32.
"""

import argparse
import time
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...cache.blocks import BLOCK_SIZE
from ...cache.kv import ArrayPools, LayerShape, Pool
from ...engine.attention.array_attention import AttentionParams, attend_arrays
from ...engine.attention.kernels.batch_tables import BatchTables
from ...engine.attention.kernels.layer_pools import LayerPools
from ...engine.attention.kernels.paged_kernels import PagedKernels, find_kernels
from ...engine.attention.shared_prefixes import shared_prefixes
from ...engine.step import SlotRange

LAYERS = 36


@dataclass(frozen=True)
class AttentionCase:
    """A batch of rows of one length that share no KV."""

    name: str
    num_rows: int
    length: int

    def runs(self) -> list[tuple[SlotRange, ...]]:
        """Return each row's slots."""
        step = -(-self.length // BLOCK_SIZE) * BLOCK_SIZE
        return [((row * step, row * step + self.length),) for row in range(self.num_rows)]


CASES = [
    AttentionCase("16 x 20k", 16, 20_000),
    AttentionCase("1 x 20k", 1, 20_000),
    AttentionCase("32 x 4k", 32, 4096),
]


class Trial:
    """One case with one precision of KV."""

    def __init__(self, case: AttentionCase, shape: LayerShape, group: int, kernels: PagedKernels) -> None:
        self.runs, self.shape, self.kernels = case.runs(), shape, kernels
        num_blocks = -(-max(row[-1][1] for row in self.runs) // BLOCK_SIZE)
        self.pools = ArrayPools([shape] * LAYERS, num_blocks)
        for pool in self.pools.keys + self.pools.values:
            fill(pool)
        heads, rows = shape.num_kv_heads, len(self.runs)
        self.queries = normal(rows, heads * group, 1, shape.key_dim)
        self.new = normal(rows, heads, 1, shape.key_dim), normal(rows, heads, 1, shape.key_dim)
        self.scoring = AttentionParams(shape.key_dim**-0.5)
        mx.eval(self.queries, self.new)

    @property
    def num_bytes(self) -> int:
        """Bytes of KV that a pass reads, each slot counted once."""
        slots = sum(prefix.num_slots for prefix in shared_prefixes(self.runs))
        return LAYERS * slots * self.shape.bytes_per_token

    def attend(self) -> list[mx.array]:
        """Return the outputs of all layers of a pass; lazy."""
        batch, outs = BatchTables(self.runs, shared_prefixes(self.runs)), []
        for layer in range(LAYERS):
            pools = LayerPools.of(self.pools, layer)
            out, self.pools.write_fences[layer] = self.kernels.decode(
                self.queries, self.new, pools, batch, self.scoring
            )
            outs.append(out)
        return outs

    def distance(self) -> float:
        """Return the largest relative distance to plain MLX of the first layer's rows, new tokens stored."""
        out = self.attend()[0]
        mx.eval(out, self.pools.write_fences)
        keys, values = self.pools.keys[0], self.pools.values[0]
        plain = attend_arrays(self.queries.astype(mx.float32), keys, values, self.runs, self.scoring)
        mine, theirs = (np.array(a.astype(mx.float32))[:, :, 0] for a in (out, plain))
        return float((np.linalg.norm(mine - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max())

    def milliseconds(self, repeat: int = 7) -> float:
        """Return the median time of a pass: half of what three passes in a graph take beyond one."""
        times = []
        for _ in range(repeat):
            few, many = (self.timed(count) for count in (1, 3))
            times.append((many - few) / 2)
        return float(np.median(times))

    def timed(self, count: int) -> float:
        """Return the milliseconds of `count` passes in a row on the device, without building them."""
        outs = [out for _ in range(count) for out in self.attend()]
        mx.synchronize()
        started = time.perf_counter()
        mx.eval(outs, self.pools.write_fences)
        return 1e3 * (time.perf_counter() - started)


def normal(*shape: int) -> mx.array:
    """Return random bf16 numbers."""
    return mx.random.normal(shape, mx.bfloat16)


def fill(pool: Pool) -> None:
    """Fill every slot with random elements."""
    pool[:] = normal(*pool.shape)
    mx.eval(pool.rows)


def main() -> None:
    """Print a line for each case and precision of KV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--kv-bits", type=int, nargs="+", default=[16, 8, 4])
    options = parser.parse_args()
    kernels = find_kernels()
    assert kernels is not None, "this measures a GPU's kernels"
    for case in CASES:
        first = None
        for bits in options.kv_bits:
            shape = LayerShape(options.kv_heads, options.dim, options.dim, mx.bfloat16, bits)
            trial = Trial(case, shape, options.group, kernels)
            distance, milliseconds = trial.distance(), trial.milliseconds()
            first = first or milliseconds
            print(
                f"{case.name:22} {bits:2} bits {milliseconds:7.2f} ms "
                f"({trial.num_bytes / milliseconds / 1e9:.2f} TB/s)"
                f"  x {milliseconds / first:.2f}  distance {distance:.1e}",
                flush=True,
            )
            del trial
            mx.clear_cache()


if __name__ == "__main__":
    main()
