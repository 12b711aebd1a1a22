"""Decode steps of Pensieve's engine and of mlx-lm's BatchGenerator, side by side on one GPU.

    python -m pensieve.bench.micro.gpu [--shape NAME] [--steps N] [--only PART]

Real model shapes with random bf16 weights; nothing is downloaded. Contexts are filled with random keys and
values instead of being prefilled, and warm-up steps come before those that count: the engine's best case.
What a served fleet gets, with prompts that are really computed, is measured by `gpu_served`. Prefill is
timed by itself, and so is a turn on a long history. The byte limit is the time to read a step's weights and
KV at the bandwidth of a large copy, which is measured first. For Pensieve's step the line has the host's
time: `plan` (scheduler), `build` (Python and the compiled graph), `queue` (MLX hands the operations to the
device, and waits there when many are queued), `wait` (for the sampled tokens); and the step's time without
the next step queued (`serial`) and without attention (`rest`).
"""

import argparse
import time
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ...cache.packing import UNQUANTISED
from ...engine.attention.paged_model import probe
from ...engine.compiling.kept_kernels import keep_compiled_code
from ...engine.fused_model import fuse
from ...engine.rehearsal import compile_kernels
from .gpu_engines import (
    ROOM,
    DecodeCase,
    DecodeFigures,
    MlxLm,
    Pensieve,
    clean_memory,
    prefill_rates,
    turn_times,
)
from .shapes import SHAPES, random_model

CASES: dict[str, list[DecodeCase]] = {
    "qwen3-4b": [
        DecodeCase("16 x 20k", [20_000] * 16),
        DecodeCase("16 x 20k, 16k shared", [20_000] * 16, shared=16_384),
        DecodeCase("64k + 7 x 4k", [65_536] + [4096] * 7),
        DecodeCase("1 x 20k", [20_000]),
        DecodeCase("8 x 4k", [4096] * 8),
        DecodeCase("32 x 4k", [4096] * 32),
    ],
    "phi-3-mini": [DecodeCase("16 x 8k", [8192] * 16), DecodeCase("1 x 8k", [8192])],
} | {
    shape: [DecodeCase(f"{rows} x 2k", [2048] * rows) for rows in (1, 8, 16, 32)]
    for shape in ("qwen3.5-4b", "qwen3.6-35b-a3b", "nemotron-3-nano", "glm-4.7-flash")
}


def copy_bytes_per_s() -> float:
    """Return the bandwidth of a large copy, in bytes read and written a second."""
    source = mx.random.normal((1 << 30,), mx.bfloat16)
    mx.eval(source)
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        mx.eval(source + 1)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def limit_ms(case: DecodeCase, weight_bytes: int, engine: Pensieve, bytes_per_s: float) -> float:
    """Return the milliseconds in which a step's weights and KV are read at a copy's bandwidth.

    Recurrent states are read and written.
    """
    rows = len(case.lengths)
    tokens = sum(case.lengths) - case.shared * (rows - 1)
    cache_bytes = tokens * engine.kv_bytes_per_token + 2 * rows * engine.state_bytes
    return 1e3 * (weight_bytes + cache_bytes) / bytes_per_s


def weight_bytes(model: Any) -> int:
    """Return the bytes of all weights."""
    sizes: list[int] = []
    tree_map(lambda p: sizes.append(p.nbytes), model.parameters())
    return sum(sizes)


def describe(name: str, result: DecodeFigures, limit: float) -> str:
    """Return one line of the table. limit: milliseconds of the byte limit."""
    join, leave = ("-" if value is None else f"{value:.1f}" for value in (result.join_ms, result.leave_ms))
    notes = " ".join(f"{key} {value:.2f}" for key, value in result.notes.items())
    return (
        f"  {name:9} {result.step_ms:8.2f} ms  {result.step_ms / limit:6.2f} x limit  "
        f"join {join:>7} ms  leave {leave:>7} ms  peak {result.peak_bytes / 1e9:6.1f} GB  {notes}"
    )


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=CASES, default="qwen3-4b")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--only", choices=["pensieve", "mlx-lm", "prefill", "turns"])
    options = parser.parse_args()
    keep_compiled_code()
    model = random_model(SHAPES[options.shape])
    compile_kernels(fuse(probe(model, UNQUANTISED)))
    weights, bytes_per_s = weight_bytes(model), copy_bytes_per_s()
    mx.clear_cache()
    print(f"{options.shape}: weights {weights / 1e9:.1f} GB, a copy moves {bytes_per_s / 1e12:.2f} TB/s")
    for case in CASES[options.shape] if options.only not in ("prefill", "turns") else ():
        with clean_memory():
            num_tokens = sum(case.lengths) - case.shared * (len(case.lengths) - 1)
            num_tokens += ROOM * (len(case.lengths) + 1)
            ours = Pensieve(model, num_tokens, step_tokens=500_000)
            limit = limit_ms(case, weights, ours, bytes_per_s)
            kv_bytes = num_tokens * ours.kv_bytes_per_token
            print(
                f"{case.name}: byte limit {limit:.2f} ms, KV {kv_bytes / 1e9:.1f} GB, "
                f"{ours.num_state_slots} states of {ours.state_bytes / 1e6:.1f} MB"
            )
            if options.only in (None, "pensieve"):
                print(describe(ours.name, ours.measure(case, options.steps), limit), flush=True)
            del ours
        with clean_memory():
            if options.only in (None, "mlx-lm"):
                theirs = MlxLm(model)
                print(describe(theirs.name, theirs.measure(case, min(8, options.steps)), limit), flush=True)
    if options.only in (None, "prefill"):
        for name, (first, second) in prefill_rates(model).items():
            print(f"prefill of a random prompt of 16k tokens in slices of 2048, {name}, tokens/s:", end=" ")
            print(f"first prompt {first:.0f}, second, of the same shapes, {second:.0f}", flush=True)
    if options.only in (None, "turns"):
        for cold_s, warm_s, found in turn_times(model):
            print(
                f"first token of 20,000 tokens {cold_s:.3f} s, with 200 more {warm_s:.3f} s, "
                f"{cold_s / warm_s:.1f} times sooner ({found} tokens found)",
                flush=True,
            )


if __name__ == "__main__":
    main()
