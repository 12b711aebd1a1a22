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

from ...engine.pass_functions import PassFunctions
from ...engine.recurrent.find_functions import find_functions
from .mixed_pass import Times

VOCAB = 1000
"""Tokens of the vocabularies: small, as the recurrent layers are measured."""


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


def family_configs(hidden: int) -> dict[str, dict[str, Any]]:
    """Return each family's config.json with four layers of width `hidden`, a multiple of 256."""
    base = {
        "hidden_size": hidden,
        "num_hidden_layers": 4,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 256,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    }
    gated_delta = {
        "linear_num_value_heads": hidden // 64,
        "linear_num_key_heads": hidden // 128,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    delta_attention = {
        "num_heads": hidden // 64,
        "head_dim": 128,
        "kda_layers": [1, 2, 3],
        "full_attn_layers": [4],
        "short_conv_kernel_size": 4,
    }
    latent = {"kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64}
    selective = {"state_size": 16, "conv_kernel": 4, "use_bias": False, "time_step_rank": hidden // 16}
    low_ranks = ("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim")
    mixed = {"mamba_d_conv": 4, "mamba_d_state": 16, "mamba_expand": 2}
    periods = {
        "attn_layer_offset": 1,
        "attn_layer_period": 4,
        "expert_layer_offset": 1,
        "expert_layer_period": 9,
    }
    recurrences = {"block_types": ["recurrent", "recurrent", "attention"], "conv1d_width": 4}
    return {
        "qwen3_next": base
        | gated_delta
        | {
            "full_attention_interval": 4,
            "partial_rotary_factor": 0.5,
            "num_experts": 0,
            "mlp_only_layers": [],
        }
        | {"num_experts_per_tok": 0, "decoder_sparse_step": 1, "shared_expert_intermediate_size": hidden}
        | {"moe_intermediate_size": hidden},
        "kimi_linear": base
        | latent
        | {"linear_attn_config": delta_attention, "model_max_length": 4096, "num_experts": 0}
        | {"moe_intermediate_size": hidden},
        "mamba2": base
        | {"num_heads": hidden // 32, "state_size": 128, "layer_norm_epsilon": 1e-5, "conv_kernel": 4}
        | {"n_groups": 2, "use_bias": False, "use_conv_bias": True, "time_step_limit": [0.0, 100.0]}
        | {"time_step_rank": 32, "rms_norm": True, "chunk_size": 64},
        "mamba": base | selective | {"use_conv_bias": True},
        "jamba": base | mixed | periods | {"num_experts": 1, "num_experts_per_tok": 1},
        "rwkv7": base | dict.fromkeys(low_ranks, 32) | {"norm_eps": 1e-5},
        "recurrent_gemma": base
        | recurrences
        | {"attention_bias": False, "logits_soft_cap": 30.0, "attention_window_size": 512},
        "bailing_moe_linear": base
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_shared_experts": 1}
        | {"norm_topk_prob": True, "first_k_dense_replace": 4, "layer_group_size": 4, "group_norm_size": 2},
        "lfm2": base
        | {"norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": hidden}
        | {"block_ff_dim": 2 * hidden, "block_multiple_of": 64, "block_ffn_dim_multiplier": 1.0}
        | {"block_auto_adjust_ff_dim": False, "full_attn_idxs": [3]},
    }


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
