"""The memory plan of models with windows, for machines that are not here."""

from dataclasses import replace

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.loading import memory_plan, state_plan
from pensieve.engine.loading.memory_plan import MemoryPlan
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo

from .test_memory_plan import MACS, PHI_3, TOY, mac, plan

# By their published shapes: weights, KV a token, its part in layers with a window, window, context.
WINDOWED = {
    name: replace(
        PHI_3,
        name=name,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes,
        window_bytes_per_token=window_bytes,
        window=window,
        context_length=context,
        activation_bytes_per_token=1,
    )
    for name, weight_bytes, kv_bytes, window_bytes, window, context in [
        ("gpt-oss-20b", 11_775_677_568, 49_152, 24_576, 128, 131_072),
        ("Gemma-4-26B-A4B", 14_200_055_868, 225_280, 204_800, 1024, 262_144),
        ("Gemma-3-27B", 15_987_621_376, 507_904, 425_984, 1024, 131_072),
        ("all layers", 14_200_055_868, 204_800, 204_800, 1024, 262_144),
    ]
}


def whole(info: ModelInfo, size: float) -> MemoryPlan:
    """The plan in which all layers keep all tokens."""
    return plan(replace(info, window=None, window_bytes_per_token=0), mac(size))


@pytest.mark.parametrize("size", MACS)
@pytest.mark.parametrize("info", WINDOWED.values(), ids=WINDOWED)
def test_windows_and_kv_share_what_weights_leave(info: ModelInfo, size: float) -> None:
    made = plan(info, mac(size))
    assert made.window is not None
    assert made.kv_bytes <= 0.9 * (size * 1e9 - info.weight_bytes - memory_plan.RESERVE_BYTES)
    kept_bytes = info.kv_bytes_per_token - info.window_bytes_per_token
    assert made.window_bytes == made.window.num_blocks * BLOCK_SIZE * info.window_bytes_per_token
    assert made.kv_bytes == made.num_kv_tokens * kept_bytes + made.window_bytes
    assert made.num_kv_tokens > 1.8 * whole(info, size).num_kv_tokens
    assert made.num_running(32) >= 2
    assert made.step_tokens <= made.window.slice_tokens
    assert made.window.num_blocks - made.window.promised_blocks >= 2 * made.window.state_blocks


def test_where_all_useful_tokens_fit_all_are_kept() -> None:
    toy = replace(TOY, window=128, window_bytes_per_token=1024)
    assert plan(toy, mac(11.4)) == plan(TOY, mac(11.4))


def test_a_window_as_long_as_half_the_context_is_no_gain() -> None:
    gemma_2 = replace(PHI_3, context_length=8192, window=4096, window_bytes_per_token=196_608)
    assert plan(gemma_2, mac(11.4)).window is None


@pytest.mark.parametrize("size", MACS)
@pytest.mark.parametrize("state_bytes", [100_000, 50_000_000])
@pytest.mark.parametrize("name", ["Gemma-3-27B", "all layers"])
def test_a_recurrent_model_has_a_state_beside_each_window(name: str, state_bytes: int, size: float) -> None:
    info = replace(WINDOWED[name], state_bytes=state_bytes)
    made = plan(info, mac(size))
    assert made.window is not None
    running = made.window.max_running
    used = made.kv_bytes + made.states_bytes + state_plan.WORKING_STATES["metal"] * running * state_bytes
    assert used <= 0.9 * (size * 1e9 - info.weight_bytes - memory_plan.RESERVE_BYTES)
    windows = (made.window.num_blocks - made.window.promised_blocks) // made.window.state_blocks
    assert made.num_state_slots == state_plan.STATES_A_SEQUENCE * running + windows
    assert (made.num_running(32), windows) >= (2, 2)
    assert made.num_kv_tokens > 1.8 * whole(info, size).num_kv_tokens


def test_what_is_missing_is_enough_for_windows_and_states() -> None:
    hybrid = replace(WINDOWED["Gemma-3-27B"], state_bytes=50_000_000)
    with pytest.raises(ModelError, match=r"4\.8 GB, 350 MB go to recurrent states") as caught:
        plan(hybrid, mac(17), max_context=40_000)
    missing = float(str(caught.value).split(": ")[1].split(" ")[0])
    assert plan(hybrid, mac(17 + missing + 0.1), max_context=40_000).num_running(32) == 1


def test_a_context_that_was_asked_for_comes_before_windows() -> None:
    """It fits only where layers with a window keep no more; what is missing is told for that as well."""
    gemma = WINDOWED["Gemma-3-27B"]
    made = plan(gemma, mac(MACS[0]), max_context=40_000)
    assert (made.max_context, made.num_running(32)) == (40_000, 1)
    with pytest.raises(ModelError, match=r"100000 tokens of KV take 9\.8 GB, and"):
        plan(gemma, mac(MACS[0]), max_context=100_000)
