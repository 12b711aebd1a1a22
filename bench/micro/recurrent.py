"""Recurrent layers as mlx-lm computes them and as Pensieve does: tokens a second, of prompts and decoding.

    python -m pensieve.bench.micro.recurrent [--families qwen3_next mamba2] [--lengths 64 512] [--rows 1 4]

Random weights on MLX's default device: float32 on a CPU, bf16 on a GPU, four layers of a family, by default
of hidden size 512 (`--hidden`). Both sides take turns; printed are medians of `--repeat` runs, the ratio of
the medians with its range over the turns, and the ratio of the least processor times. Caches are mlx-lm's:
nothing but the functions differs. On a CPU `MLX_DISABLE_COMPILE=1` spares both sides a C++ compiler for
each new shape.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

from ...engine.find_functions import find_functions
from ...engine.pass_functions import PassFunctions
from .mixed_pass import Times
from .recurrent_families import VOCAB, family_configs


class Turns(NamedTuple):
    """A case's times in each turn."""

    theirs: list[Times]
    ours: list[Times]

    def report(self, num_tokens: int) -> str:
        """Return speeds and ratios, for people to read. num_tokens: of the case."""
        theirs, ours = (statistics.median(each.wall for each in side) for side in self)
        least = [min(each.processor for each in side) for side in self]
        ratios = [a.wall / b.wall for a, b in zip(self.theirs, self.ours, strict=True)]
        speeds = f"{num_tokens / theirs:7.0f} -> {num_tokens / ours:7.0f} tokens/s"
        wall = f"x {theirs / ours:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        return f"{speeds}, {wall}; processor x {least[0] / least[1]:.2f}"


def make_model(family: str, config: dict[str, Any]) -> Any:
    """Return a model with random weights; its vectors stay as the model makes them."""
    model_class, args_class = mlx_lm.utils._get_classes({"model_type": family} | config)
    model = model_class(args_class.from_dict({"model_type": family} | config))
    model.update(
        tree_map(
            lambda p: mx.random.normal(p.shape) * p.shape[-1] ** -0.5 if p.ndim > 1 else p, model.parameters()
        )
    )
    model.set_dtype(mx.float32 if mx.default_device().type == mx.cpu else mx.bfloat16)
    model.eval()
    mx.eval(model.parameters())
    return model


def take_turns(run: Callable[[], None], functions: PassFunctions, repeat: int) -> Turns:
    """Time `run` with mlx-lm's functions and with ours, in turns; the first turn is not counted."""
    turns = Turns([], [])
    for turn in range(repeat + 1):
        for times, used in ((turns.theirs, PassFunctions()), (turns.ours, functions)):
            with used:
                started = Times(time.perf_counter(), time.process_time())
                run()
                ended = Times(time.perf_counter(), time.process_time())
            if turn:
                times.append(Times(ended.wall - started.wall, ended.processor - started.processor))
    return turns


def prefill(model: Any, num_tokens: int) -> None:
    """Compute a prompt, with its caches, to the end."""
    caches = make_prompt_cache(model)
    logits = model(mx.arange(num_tokens)[None] * 7919 % VOCAB, cache=caches)
    mx.eval(logits[:, -1], [cache.state for cache in caches])


def decode(model: Any, num_rows: int, num_steps: int) -> Callable[[], None]:
    """Return a function that decodes so many steps of a batch of rows of 16 tokens."""

    def run() -> None:
        caches = make_prompt_cache(model)
        mx.eval(model(mx.ones((num_rows, 16), mx.int32), cache=caches))
        for token in range(num_steps):
            mx.eval(model(mx.full((num_rows, 1), token), cache=caches), [cache.state for cache in caches])

    return run


def main() -> None:
    """Measure the families that the command names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="*")
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    configs = family_configs(options.hidden)
    for family in options.families or configs:
        model = make_model(family, configs[family])
        functions = find_functions(model, on_host=mx.default_device().type == mx.cpu)
        for length in options.lengths:
            turns = take_turns(partial(prefill, model, length), functions, options.repeat)
            print(f"{family:20} prompt of {length:5}: {turns.report(length)}", flush=True)
        for num_rows in options.rows:
            turns = take_turns(decode(model, num_rows, options.steps), functions, options.repeat)
            print(f"{family:20} {num_rows:6} decoding: {turns.report(num_rows * options.steps)}", flush=True)


if __name__ == "__main__":
    main()
