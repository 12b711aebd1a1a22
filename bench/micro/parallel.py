"""Measures a model over several devices of this machine against one device: decode and prompts.

    python -m pensieve.bench.micro.parallel --shape qwen3-4b --backend nccl --ranks 2

Each side is measured in processes of its own, one after the other, with random weights that every rank draws
by layer and cuts at once, so that a rank holds its part only. `--one-device no` measures the ranks alone, for
models that one device cannot hold. The share of traffic is what the ranks' sums take by themselves, measured
in the sizes and numbers of a decode step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ...cache.blocks import BLOCK_SIZE
from ...engine.attention.paged_model import probe
from ...engine.loading.device import bound_buffer_cache
from ...engine.paged_caches import Capacity
from ...engine.ranks.model_shards import shard_model
from ...engine.ranks.rank_hosts import local_environments, read_hostfile
from ...engine.ranks.rank_runner import RankRunner
from ...engine.runner import Runner
from ...engine.selfcheck import usable_kernels
from ...engine.step import DecodeRow, PrefillChunk, SamplingParams, StateSlots, StepPlan
from .bare_engine import in_served_form
from .shapes import SHAPES

CONTEXT = 2048
"""Tokens of each sequence before it is decoded."""

SLICE = 2048
BATCHES = (1, 16)
WARM_STEPS = 5
ROOM = 256
"""Tokens that each sequence has room for behind its context."""

MAX_STEPS = ROOM // len(BATCHES) - WARM_STEPS
SIDE = "PENSIEVE_PARALLEL_SIDE"

LARGE: dict[str, dict[str, Any]] = {
    "qwen3-32b": SHAPES["qwen3-4b"]
    | {
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "intermediate_size": 25600,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": SHAPES["qwen3-4b"]
    | {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "intermediate_size": 6144,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
}
"""Shapes beside those of shapes.py: a dense model and a mixture that several devices are meant for."""


def make_model(config: dict[str, Any], group: Any) -> Any:
    """Return a model of random bf16 weights, float32 on the CPU, or a rank's part of it.

    Weights are lazy until they are cut, and are then made one after another: no rank holds the whole model.
    """
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    is_cast = getattr(model, "cast_predicate", lambda name: True)
    dtype = mx.float32 if mx.default_device().type == mx.cpu else mx.bfloat16

    def drawn(name: str, own: mx.array) -> mx.array:
        if own.ndim < 2 or not is_cast(name):
            return own.astype(dtype) if is_cast(name) else own
        new: mx.array = mx.random.normal(own.shape, dtype) * own.shape[-1] ** -0.5
        return new

    mx.random.seed(0)
    weights: Any = tree_flatten(model.parameters())
    model.load_weights([(name, drawn(name, own)) for name, own in weights])
    model.eval()
    if group is not None:
        shard_model(model, group)
    parameters: Any = tree_flatten(model.parameters())
    for _, array in parameters:
        mx.eval(array)
        mx.clear_cache()
    return model


def make_runner(model: Any, group: Any, num_rows: int, has_kernels: bool) -> Runner:
    """Return a runner as the server makes it, with room for `num_rows` sequences.

    has_kernels: attend with kernels where there are any; else in plain MLX.
    """
    on_host = mx.default_device().type == mx.cpu
    paged = in_served_form(probe(model, 16), on_host)
    kernels = usable_kernels(paged) if has_kernels and not on_host else None
    slots = 2 * num_rows if paged.states else 0
    capacity = Capacity(num_rows * _blocks(), slots)
    if group is None:
        return Runner(paged, capacity, on_host, kernels)
    return RankRunner.of(group, paged, capacity, on_host, kernels)


def _blocks() -> int:
    return -(-(CONTEXT + ROOM) // BLOCK_SIZE)


def _slots(row: int, length: int) -> tuple[tuple[int, int], ...]:
    first = row * _blocks() * BLOCK_SIZE
    return ((first, first + length),)


def measure(runner: Runner, vocab: int, has_states: bool, num_steps: int) -> dict[str, float]:
    """Return tokens a second: of a prompt, and of decode at each batch size."""
    found: dict[str, float] = {}
    step = 0
    for row in range(max(BATCHES)):
        started_s = time.perf_counter()
        tokens = [(row * 7919 + i * 31) % vocab for i in range(CONTEXT)]
        state = StateSlots(None, 2 * row) if has_states else None
        runner.step(StepPlan(step, prefill=[PrefillChunk(row, tokens, 0, _slots(row, CONTEXT), state)]))
        runner.proceed()
        runner.drain()
        step += 1
        found["prompt"] = max(found.get("prompt", 0.0), CONTEXT / (time.perf_counter() - started_s))
    position, turn, knows_all = CONTEXT, 0, mx.default_device().type == mx.cpu
    for batch in BATCHES:
        for number in range(num_steps + WARM_STEPS):
            if number == WARM_STEPS:
                runner.drain()
                started_s = time.perf_counter()
            rows = []
            for row in range(batch):
                places = (2 * row + turn % 2, 2 * row + 1 - turn % 2)
                state = StateSlots(*places) if has_states else None
                token = 5 if knows_all or number in (0, WARM_STEPS) else None
                slots = _slots(row, position + 1)
                rows.append(DecodeRow(row, token, position, slots, SamplingParams(), state=state))
            runner.step(StepPlan(step, decode=rows))
            step, position, turn = step + 1, position + 1, turn + 1
        runner.drain()
        found[f"decode x{batch}"] = batch * num_steps / (time.perf_counter() - started_s)
    return found


def traffic_ms(group: Any, config: dict[str, Any], batch: int) -> float:
    """Return the milliseconds that the sums of one decode step take by themselves, one behind another."""
    x = mx.zeros((batch, 1, config["hidden_size"]), mx.bfloat16)
    for _ in range(2):  # the first time connects
        mx.eval(x)
        started_s = time.perf_counter()
        for _ in range(2 * config["num_hidden_layers"]):
            x = mx.distributed.all_sum(x, group=group)
        mx.eval(x)
    return (time.perf_counter() - started_s) * 1e3


def run_side(options: argparse.Namespace, config: dict[str, Any]) -> None:
    """Measure one side, as one rank or as the only device; rank 0 writes what it has found as JSON."""
    is_alone = os.environ[SIDE] == "one"
    group: Any = None if is_alone else mx.distributed.init(strict=True, backend=options.backend)
    bound_buffer_cache()
    started_s = time.perf_counter()
    model = make_model(config, group)
    runner = make_runner(model, group, max(BATCHES), options.attention == "kernels")
    found = {"made in s": time.perf_counter() - started_s}
    found |= measure(runner, config["vocab_size"], bool(runner.caches.states.arrays()), options.steps)
    found["GB of memory"] = mx.get_peak_memory() / 1e9
    if group is not None:
        found |= {f"sums x{batch} in ms": traffic_ms(group, config, batch) for batch in BATCHES}
    if is_alone or group.rank() == 0:
        print("FOUND " + json.dumps(found), flush=True)
    os._exit(0)  # without the shutdown of a group, which may wait for other ranks


def measure_side(options: argparse.Namespace, environments: list[dict[str, str]]) -> dict[str, float]:
    """Run one side's processes; return what its first one has found."""
    command = [sys.executable, "-m", "pensieve.bench.micro.parallel", *sys.argv[1:]]
    processes = [
        subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True)
        for own in environments
    ]
    outputs = [process.communicate()[0] for process in processes]
    lines = [line for line in outputs[0].splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise SystemExit(f"nothing measured: {outputs[0]}")
    found: dict[str, float] = json.loads(lines[0].removeprefix("FOUND "))
    return found


def main() -> None:
    """Measure both sides, and print them with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shapes = SHAPES | LARGE
    parser.add_argument("--shape", choices=shapes, default="tiny")
    parser.add_argument("--backend", choices=("ring", "nccl"), default="ring")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help=f"decode steps, at most {MAX_STEPS}")
    parser.add_argument("--attention", choices=("kernels", "plain"), default="kernels")
    parser.add_argument("--one-device", choices=("yes", "no"), default="yes")
    options = parser.parse_args()
    if not 0 < options.steps <= MAX_STEPS:
        parser.error(f"--steps must lie between 1 and {MAX_STEPS}")
    if SIDE in os.environ:
        run_side(options, shapes[options.shape])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hosts.json"
        hosts = [{"ssh": "localhost"}] * options.ranks
        file.write_text(json.dumps({"backend": options.backend, "hosts": hosts}))
        with local_environments(read_hostfile(file)) as environments:
            many = measure_side(options, [own | {SIDE: "ranks"} for own in environments])
    one = measure_side(options, [{SIDE: "one"}]) if options.one_device == "yes" else {}
    print(f"{options.shape}, {options.ranks} ranks over {options.backend}: one device, ranks, ratio")
    for name, value in many.items():
        ratio = f"{value / one[name]:8.2f}" if name in one else ""
        print(f"{name:>16} {one.get(name, float('nan')):10.2f} {value:10.2f} {ratio}")


if __name__ == "__main__":
    main()
