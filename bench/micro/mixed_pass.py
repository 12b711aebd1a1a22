"""Decode rows beside a prompt's slice: a pass over the model for each against one pass for both.

    python -m pensieve.bench.micro.mixed_pass [--shape NAME] [--decode 1 4 8] [--slices 32 64] [--repeat N]

Random weights on MLX's default device: float32 on a CPU, bf16 on a GPU. `llama` is 574 MB in float32, more
than a processor's cache holds. Contexts are empty KV. Both ways take turns; printed are the medians of a
step's time and the least processor time, all threads together, which a busy machine disturbs less.
"""

import argparse
import statistics
import time
from typing import Any, NamedTuple

import mlx.core as mx

from ...cache.blocks import BLOCK_SIZE
from ...cache.packing import UNQUANTISED
from ...engine.attention.paged_model import probe
from ...engine.fused_model import fuse
from ...engine.paged_caches import Capacity
from ...engine.runner import Runner
from ...engine.selfcheck import usable_kernels
from ...engine.step import DecodeRow, PrefillChunk, SamplingParams, StepPlan
from .shapes import SHAPES, random_model

CONTEXT = 1024
"""Tokens of each sequence before the step."""

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 3,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 4000,
    "rms_norm_eps": 1e-6,
}


class Times(NamedTuple):
    """Seconds of one step."""

    wall: float
    processor: float


def make_runners(config: dict[str, Any], num_tokens: int) -> tuple[Runner, Runner]:
    """Return runners of a random model: one with a pass for each part of a step, one with a single pass."""
    model, on_host = random_model(config), mx.default_device().type == mx.cpu
    if on_host:
        model.set_dtype(mx.float32)
    paged = probe(model, UNQUANTISED)
    paged = paged if on_host else fuse(paged)
    kernels = None if on_host else usable_kernels(paged)
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    return (
        Runner(paged, Capacity(num_blocks), on_host, kernels),
        Runner(paged, Capacity(num_blocks), on_host, kernels, mixed_tokens=num_tokens),
    )


def make_plan(num_rows: int, length: int) -> StepPlan:
    """Plan a step of `num_rows` decode rows and a slice of `length` tokens."""
    size = CONTEXT + BLOCK_SIZE
    starts = [i * size for i in range(num_rows + 1)]
    rows = [
        DecodeRow(i, 7 + i, CONTEXT, ((starts[i], starts[i] + CONTEXT + 1),), SamplingParams())
        for i in range(num_rows)
    ]
    slots = (starts[-1], starts[-1] + CONTEXT + length)
    return StepPlan(0, rows, [PrefillChunk(num_rows, [7] * length, CONTEXT, (slots,))])


def timed(runner: Runner, plan: StepPlan) -> Times:
    """Run a step to its end."""
    started_s, used_s = time.perf_counter(), time.process_time()
    runner.step(plan)
    runner.drain()
    mx.synchronize()
    return Times(time.perf_counter() - started_s, time.process_time() - used_s)


def main() -> None:
    """Time both ways and print a line for each batch and slice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=["llama", *SHAPES], default="llama")
    parser.add_argument("--decode", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--slices", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    num_tokens = (max(options.decode) + 1) * (CONTEXT + BLOCK_SIZE) + max(options.slices)
    runners = make_runners(SHAPES.get(options.shape, LLAMA), num_tokens)
    for num_rows in options.decode:
        for length in options.slices:
            plan = make_plan(num_rows, length)
            rounds = [[timed(runner, plan) for runner in runners] for _ in range(options.repeat + 1)]
            ways = list(zip(*rounds[1:], strict=True))  # the first round warms up
            two, one = (1e3 * statistics.median(times.wall for times in way) for way in ways)
            two_used, one_used = (1e3 * min(times.processor for times in way) for way in ways)
            print(
                f"{num_rows:2} rows, slice of {length:4}: two passes {two:7.1f} ms, one {one:7.1f} ms",
                end=" ",
            )
            print(f"({one / two:.2f}); processor {two_used:7.1f} ms, {one_used:7.1f} ms", end=" ")
            print(f"({one_used / two_used:.2f})", flush=True)


if __name__ == "__main__":
    main()
