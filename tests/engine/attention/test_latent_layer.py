"""Latent attention: one row a token is kept, and the answers are those of mlx-lm's own caches."""

import random
from collections.abc import Iterator

import mlx.core as mx
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.mixed_check import can_mix
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.selfcheck import logits_error

from ...budget import sampled, trials
from ...families.family import HEADS, LATENT, LAYERS
from ...families.random_model import random_model
from ..harness import Machine, Verdict, grow_tree, mixing_runner

RANK, ROW = LATENT["kv_lora_rank"], LATENT["kv_lora_rank"] + LATENT["qk_rope_head_dim"]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """On a CPU `mx.compile` calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize(("kv_bits", "row_bytes"), [(16, 4 * ROW), (8, ROW + 3 * 8)])
def test_a_layer_keeps_one_row_a_token(kv_bits: int, row_bytes: int) -> None:
    paged = probe(random_model("deepseek_v3"), kv_bits)
    for spec in paged.layers:
        assert (spec.shape.num_kv_heads, spec.shape.key_dim, spec.shape.value_dim) == (1, ROW, RANK)
        assert spec.shape.values_in_keys
        assert spec.num_heads == HEADS
    assert paged.kv_bytes_per_token == LAYERS * row_bytes


@pytest.mark.parametrize(
    ("name", "kv_bits", "on_host"),
    sampled(
        [
            (name, kv_bits, on_host)
            for name in ("deepseek_v3", "mistral4")
            for kv_bits in (16, 8, 4)
            for on_host in (True, False)
        ],
        kept=[("deepseek_v3", 16, True), ("mistral4", 8, False)],
    ),
)
def test_tokens_are_those_of_mlx_lms_own_caches(name: str, kv_bits: int, on_host: bool) -> None:
    """Cached, batched, in slices, and some steps as one pass; quantised rows are so on both sides."""
    model, rng = random_model(name), random.Random(kv_bits)
    paged, verdict = probe(model, kv_bits), Verdict(tie=1e-3 if kv_bits == 16 else 0.02)
    assert logits_error(paged, on_host) <= 1
    machine = Machine(mixing_runner(paged, 400, on_host), num_blocks=400)
    num_trees = trials(2, 5)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, 512, num_requests=4):
            verdict.judge(model, sequence, None if kv_bits == 16 else reference_caches(paged))
    assert verdict.wrong == 0
    assert verdict.tokens > 15 * num_trees
    assert verdict.ties <= verdict.tokens / (1000 if kv_bits == 16 else 50)
    assert len(verdict.seen) > verdict.tokens / 10


def test_prompts_and_answers_share_a_pass() -> None:
    """The model's last layer is called apart for slices, as with ordinary attention."""
    assert can_mix(probe(random_model("glm4_moe_lite"), 16), on_host=True, kernels=None)
