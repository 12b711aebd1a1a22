"""Sessions of a recurrent model on a machine with few states; figures never differ."""

from pensieve.bench.micro.divided_memory import FACTORS, MODELS, divisions
from pensieve.bench.micro.forgotten_windows import Fleet
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.device import Device
from pensieve.engine.loading.memory_plan import make_plan


def test_sessions_that_begin_leave_the_others_their_checkpoints() -> None:
    """Without checkpoints that stay beside running sequences, 2.2 tokens are computed for each new one."""
    info = next(info for info in MODELS if info.name == "Qwen3.6-35B-A3B")
    plan = make_plan(info, EngineConfig(), Device("metal", "a Mac", 22_900_000_000), 32)
    assert plan.num_state_slots == 10
    assert Fleet(plan, 3).play(4) < 1.5


def test_divisions_have_the_same_bytes() -> None:
    plan = make_plan(MODELS[0], EngineConfig(), Device("metal", "a Mac", 22_900_000_000), 32)
    found = list(divisions(plan))
    assert found[FACTORS.index(1)] == plan
    whole = plan.kv_bytes + plan.states_bytes
    for each in found:
        assert each is not None
        used = each.num_kv_tokens * each.kv_bytes_per_token + each.states_bytes
        assert whole - 32 * each.kv_bytes_per_token < used <= whole
