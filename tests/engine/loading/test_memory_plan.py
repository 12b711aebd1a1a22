"""The memory plan, for machines that are not here."""

from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.packing import row_bytes
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading import memory_plan, state_plan
from pensieve.engine.loading.device import Device
from pensieve.engine.loading.memory_plan import MemoryPlan, make_plan
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo, activation_bytes_per_token
from pensieve.engine.step import SamplingParams

PHI_3 = ModelInfo(
    name="phi-3",
    path=Path(),
    model_type="phi3",
    vocab_size=32064,
    context_length=131_072,
    weight_bytes=2_150_000_000,
    dtype="float16",
    quantization="4-bit",
    num_layers=32,
    kv_bytes_per_token=393_216,
    activation_bytes_per_token=150_000,
    eos_token_ids=frozenset(),
    default_sampling=SamplingParams(),
    kv_bits=16,
)
TOY = replace(PHI_3, name="toy", weight_bytes=4_000_000, kv_bytes_per_token=2048, context_length=8192)


# Recurrent models in 4 bits, by their published shapes: weights, KV a token and state of mlx-lm's models.
HYBRIDS = {
    name: replace(
        PHI_3,
        name=name,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes,
        state_bytes=state_bytes,
        context_length=context,
    )
    for name, weight_bytes, kv_bytes, state_bytes, context in [
        ("Qwen3.5-4B", 2_367_117_312, 32_768, 51_511_296, 262_144),
        ("Qwen3.6-35B-A3B", 19_508_787_456, 20_480, 64_389_120, 262_144),
        ("Nemotron-3-Nano", 17_775_333_504, 6_144, 49_082_368, 262_144),
        ("LFM2-8B-A1B", 4_692_237_184, 12_288, 147_456, 128_000),
        ("Granite-4-H-Small", 18_125_632_512, 16_384, 152_819_712, 131_072),
        ("mamba-2.8b", 1_600_000_000, 0, 50_000_000, 131_072),
    ]
}


def mac(gigabytes: float) -> Device:
    return Device("metal", "Apple M3", int(gigabytes * 1e9))


def host(gigabytes: float) -> Device:
    return Device("cpu", "a CPU", int(gigabytes * 1e9))


def plan(info: ModelInfo, device: Device, max_batch: int = 32, **settings: float) -> MemoryPlan:
    config = EngineConfig(**settings)  # type: ignore[arg-type]  # tests pass numbers only
    return make_plan(info, config, device, max_batch)


def test_context_is_what_fits_when_the_model_could_hold_more() -> None:
    made = plan(PHI_3, mac(11.4))
    assert 15_000 < made.max_context < 25_000
    assert made.max_context == made.num_kv_tokens == made.num_blocks * BLOCK_SIZE


def test_context_is_the_models_when_more_would_fit() -> None:
    made = plan(TOY, mac(11.4))
    assert made.max_context == 8192
    assert made.num_kv_tokens > 8 * 8192


def test_everything_fits_on_the_device() -> None:
    for size in (8, 11.4, 22.9, 51.5, 103):
        made = plan(PHI_3, mac(size))
        assert made.kv_bytes + PHI_3.weight_bytes + memory_plan.RESERVE_BYTES <= size * 1e9


def test_a_small_model_does_not_take_a_large_machine() -> None:
    assert plan(TOY, mac(100)).kv_bytes < 1e9
    assert plan(TOY, host(100)).kv_bytes < plan(TOY, mac(100)).kv_bytes


def test_kv_cache_gb_is_taken_literally() -> None:
    made = plan(PHI_3, mac(51.5), kv_cache_gb=10)
    assert 10e9 - BLOCK_SIZE * 393_216 < made.kv_bytes <= 10e9


def test_more_kv_than_the_device_can_spare_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"^not enough memory: --kv-cache-gb 40 is 31\.\d GB more than Apple M3"
    ):
        plan(PHI_3, mac(11.4), kv_cache_gb=40)


@pytest.mark.parametrize(("kv_bits", "factor"), [(8, 2 / 1.125), (4, 2 / 0.625)])
def test_quantised_kv_holds_more_tokens(kv_bits: int, factor: float) -> None:
    """Scales included: an element takes 9 or 5 bits."""
    kv_bytes = 32 * 32 * 2 * row_bytes(96, kv_bits, item_bytes=2)
    smaller = replace(PHI_3, kv_bits=kv_bits, kv_bytes_per_token=kv_bytes)
    made = plan(smaller, mac(11.4))
    assert made.num_kv_tokens == pytest.approx(factor * plan(PHI_3, mac(11.4)).num_kv_tokens, rel=0.01)
    assert made.kv_bytes == pytest.approx(plan(PHI_3, mac(11.4)).kv_bytes, rel=0.01)


def test_quantised_kv_is_suggested_where_it_would_be_enough() -> None:
    with pytest.raises(ModelError, match=r"try a smaller --max-context or --kv-bits 8 or a smaller model$"):
        plan(PHI_3, mac(32), max_context=100_000)
    with pytest.raises(ModelError, match=r"try a smaller --max-context or a smaller model$"):
        plan(replace(PHI_3, kv_bits=8), mac(32), max_context=100_000)


def test_a_model_that_does_not_fit_says_how_much_is_missing() -> None:
    with pytest.raises(ModelError, match=r"^not enough memory: 1\.\d GB missing.* try a smaller model$"):
        plan(PHI_3, mac(2))


def test_plain_weights_that_do_not_fit_suggest_four_bits() -> None:
    with pytest.raises(ModelError, match=r"try a 4-bit model$"):
        plan(replace(PHI_3, quantization=None, weight_bytes=7_600_000_000), mac(8))


def test_what_is_missing_is_enough_when_added() -> None:
    """The figure is worth something only if the plan works once the machine has that much more."""
    for size in (1.0, 2.0, 3.0, 11.4):
        context = 100_000
        with pytest.raises(ModelError) as caught:
            plan(PHI_3, mac(size), max_context=context)
        missing = float(str(caught.value).split(": ")[1].split(" ")[0])
        assert plan(PHI_3, mac(size + missing + 0.1), max_context=context).max_context == context


def test_an_explicit_context_that_does_not_fit_is_refused_not_cut() -> None:
    with pytest.raises(
        ModelError, match=r"100000 tokens of KV take 39\.3 GB.* try a smaller --max-context or"
    ):
        plan(PHI_3, mac(11.4), max_context=100_000)


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(ModelError, match="--max-context 9000 is more than the model's 8192 tokens"):
        plan(TOY, mac(11.4), max_context=9000)


def test_a_smaller_context_is_kept() -> None:
    assert plan(TOY, mac(11.4), max_context=4096).max_context == 4096


def test_a_step_has_as_many_tokens_as_the_spare_memory_has_room_for() -> None:
    small, large = plan(PHI_3, mac(8)), plan(PHI_3, mac(103))
    assert memory_plan.MIN_STEP_TOKENS <= small.step_tokens < large.step_tokens == 8192
    wide = replace(PHI_3, activation_bytes_per_token=10_000_000)
    assert plan(wide, mac(11.4)).step_tokens == memory_plan.MIN_STEP_TOKENS
    assert plan(PHI_3, host(103)).step_tokens == 2048


def test_experts_need_a_hidden_state_each() -> None:
    dense = {"hidden_size": 1000, "intermediate_size": 3000}
    assert activation_bytes_per_token(dense, 2) == 4 * (4 * 1000 + 3 * 3000)
    experts = dense | {"num_experts_per_tok": 8, "moe_intermediate_size": 500}
    assert activation_bytes_per_token(experts, 2) == 4 * (20 * 1000 + 3 * 4000)
    assert activation_bytes_per_token({}, 2) > 0


def test_of_sizes_that_differ_by_layer_the_largest_counts() -> None:
    """Hunyuan's config has lists of them; the server's start failed with a TypeError."""
    same = {"hidden_size": 1000, "intermediate_size": 3000, "moe_intermediate_size": 500, "moe_topk": 8}
    lists = same | {"intermediate_size": [3000, 100], "moe_intermediate_size": [400, 500], "moe_topk": [8, 1]}
    assert (
        activation_bytes_per_token(lists, 2) == activation_bytes_per_token(same, 2) == 4 * (20_000 + 12_000)
    )


MACS = [32 * 2**30 * 2 / 3 / 1e9, 64 * 2**30 * 3 / 4 / 1e9, 128 * 2**30 * 3 / 4 / 1e9]


def states_with_working_ones(made: MemoryPlan) -> int:
    """The bytes of all slots, and of what a pass over all rows that may run holds beside them."""
    working = state_plan.WORKING_STATES["metal"] * made.num_running(32)
    return (made.num_state_slots + working) * made.state_bytes


@pytest.mark.parametrize("size", MACS)
@pytest.mark.parametrize("info", HYBRIDS.values(), ids=HYBRIDS)
def test_states_and_kv_share_what_weights_leave(info: ModelInfo, size: float) -> None:
    made = plan(info, mac(size))
    used = made.kv_bytes + states_with_working_ones(made)
    budget = 0.9 * (size * 1e9 - info.weight_bytes - memory_plan.RESERVE_BYTES)
    assert used <= budget
    assert made.states_bytes == made.num_state_slots * info.state_bytes
    assert made.num_running(32) >= 3
    # A conversation of 60,000 tokens with eight checkpoints fits beside a running one.
    assert made.num_kv_tokens >= 60_000
    assert made.num_state_slots >= 8 + state_plan.STATES_A_SEQUENCE - 1
    checkpoints = made.num_state_slots - state_plan.STATES_A_SEQUENCE * made.num_running(32)
    assert made.num_kv_tokens >= 0.99 * checkpoints * state_plan.MIN_TOKENS_A_STATE


def test_a_mac_of_32_gb_holds_qwens_mixture_and_three_sessions() -> None:
    made = plan(HYBRIDS["Qwen3.6-35B-A3B"], mac(MACS[0]))
    assert (made.num_state_slots, made.num_kv_tokens // 1000, made.num_running(32)) == (10, 66, 3)


def test_small_states_have_a_slot_for_every_checkpoint_that_is_of_use() -> None:
    """LFM2 keeps 0.15 MB a state: 12 tokens of KV."""
    made = plan(HYBRIDS["LFM2-8B-A1B"], mac(MACS[2]))
    assert made.num_state_slots > made.num_kv_tokens // state_plan.MIN_TOKENS_A_STATE
    assert made.states_bytes < 0.03 * made.kv_bytes


def test_a_model_without_attention_needs_no_kv() -> None:
    """Blocks are still counted out to sequences, but nothing is kept in them."""
    made = plan(HYBRIDS["mamba-2.8b"], mac(MACS[0]))
    assert made.kv_bytes == 0
    assert made.max_context == 131_072
    assert made.num_kv_tokens >= 32 * 131_072
    assert made.num_running(32) == 32


def test_models_without_states_have_no_slots() -> None:
    made = plan(PHI_3, mac(11.4))
    assert (made.num_state_slots, made.states_bytes, made.num_running(32)) == (0, 0, 32)


def test_a_large_batch_has_states_where_memory_allows() -> None:
    toy = replace(TOY, state_bytes=100_000)
    assert plan(toy, mac(11.4), max_batch=256).num_running(256) == 256
    assert plan(toy, mac(11.4), max_batch=8).num_state_slots < 3 * 256


def test_a_context_that_was_asked_for_comes_before_checkpoints() -> None:
    hybrid = HYBRIDS["Qwen3.6-35B-A3B"]
    made = plan(hybrid, mac(MACS[0]), max_context=98_000)
    assert made.max_context == 98_000
    assert (made.num_state_slots, made.num_running(32)) == (3, 1)
    with pytest.raises(ModelError, match=r"120000 tokens of KV take 2\.5 GB, 322 MB go to recurrent states"):
        plan(hybrid, mac(MACS[0]), max_context=120_000)


def test_states_come_out_of_kv_cache_gb() -> None:
    made = plan(HYBRIDS["Qwen3.5-4B"], mac(MACS[0]), kv_cache_gb=4)
    assert 3.9e9 < made.kv_bytes + states_with_working_ones(made) <= 4e9


def test_what_is_missing_is_enough_for_a_model_with_states() -> None:
    hybrid = HYBRIDS["Granite-4-H-Small"]
    with pytest.raises(ModelError) as caught:
        plan(hybrid, mac(18))
    missing = float(str(caught.value).split(": ")[1].split(" ")[0])
    assert plan(hybrid, mac(18 + missing + 0.1)).num_running(32) == 1
