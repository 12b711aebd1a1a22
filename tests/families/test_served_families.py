"""Every family of mlx-lm: served token for token as mlx-lm's own caches answer, or refused with a reason."""

import re
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import pytest

from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.build import build, checked, plan_model
from pensieve.engine.loading.loader import load
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.served_model import WindowPool

from ..budget import sampled
from ..engine.harness import Machine
from ..models import random_weights, write_folder
from .answers import ANSWER, CACHED, Judge, serve
from .family import VOCAB, Family
from .metal_only import replace_kernels
from .refusals import JUDGED_WHOLE, NEEDS_A_PACKAGE, REFUSALS
from .table import FAMILIES

SMALL = Capacity(num_blocks=60, num_state_slots=24, num_window_blocks=60)
"""The pools of plain MLX, which copies them at most writes."""

SAMPLE = [
    "falcon_h1",  # attention and a state in each layer
    "gemma4",  # layers that share, windows, two sizes of heads
    "glm4_moe_lite",  # latents
    "gpt_oss",  # windows and sinks
    "kimi_linear",  # delta rules and latents
    "lfm2",  # convolutions
    "llama",
    "mamba2",  # nothing but states
    "nemotron_h",  # layers without a cache
    "qwen3_5_moe",  # gated delta rules
]
"""The families of `make test`: one of each kind of cache."""

SERVED = sorted(FAMILIES.keys() - REFUSALS.keys())


@pytest.fixture(autouse=True)
def plain_mlx(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let models run uncompiled, as MLX's CPU device calls a C++ compiler, and without Metal."""
    if not mx.metal.is_available():
        replace_kernels(monkeypatch)
    mx.disable_compile()
    yield
    mx.enable_compile()


def write_family(folder: Path, family: Family) -> Path:
    """Write a tiny model of a family, of weights with which its answers vary."""
    drawn = FAMILIES["llama"] if family.name in NEEDS_A_PACKAGE else family
    weights = random_weights(drawn.full_config, seed=0, scale=family.scale, vector_noise=0.1)
    return write_folder(folder, family.full_config, weights, VOCAB)


def settings(folder: Path) -> EngineConfig:
    return EngineConfig(model=str(folder), kv_cache_gb=0.1)


@pytest.mark.parametrize("name", sampled(SERVED, SAMPLE))
def test_a_family_answers_as_on_mlx_lms_own_caches(tmp_path: Path, name: str) -> None:
    """Cold, cached, beside others and in slices, with NumPy's attention and with plain MLX's.

    With NumPy's, layers keep all tokens; with plain MLX's, they forget what their windows have passed. On a
    GPU kernels take NumPy's place.
    """
    config = settings(write_family(tmp_path, FAMILIES[name]))
    planned = plan_model(tmp_path, config, max_batch=32)
    runner, served = build(planned)
    capacity = Capacity(served.num_blocks, served.num_state_slots)
    small = SMALL if served.num_state_slots else SMALL._replace(num_state_slots=0)
    window = None
    if planned.info.window is not None:
        window = WindowPool(planned.info.window, num_blocks=60, slice_tokens=64, max_running=8)
    plain = Runner(checked(load(planned.info), name, on_host=False), small, on_host=False)
    judge = Judge(mlx_lm.utils.load_model(tmp_path)[0], by_token=name not in JUDGED_WHOLE)
    for each, (num_blocks, num_slots, _), pool in ((runner, capacity, served.window), (plain, small, window)):
        machine = Machine(each, num_blocks, num_state_slots=num_slots, window=pool)
        for sequence in serve(machine):
            judge.check(sequence)
        assert machine.scheduler.counters.prefix_cache_hits == CACHED
    print(f"{name}: {judge.ties} ties")
    assert len(judge.seen) > ANSWER, "a model that repeats itself proves nothing"


@pytest.mark.parametrize("name", sampled(sorted(REFUSALS), ["deepseek_v41"]))
def test_a_family_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    """By the configuration and the weights' headers alone, where these can show it."""
    refusal, config = REFUSALS[name], settings(write_family(tmp_path, FAMILIES[name]))

    def start() -> None:
        planned = plan_model(tmp_path, config, max_batch=32)
        assert refusal.is_tried
        build(planned)

    with pytest.raises(ModelError, match=re.escape(refusal.message)):
        start()
