"""The scheduler on simulated devices: the only clock is the simulation's, so that figures never differ."""

from dataclasses import replace

import pytest

from pensieve.bench.micro.simulated_devices import DEVICES, SimulatedDevice
from pensieve.bench.micro.simulated_fleet import MAX_STEP_TOKENS, TRACES, SimulatedPlay, TokenTrace, main
from pensieve.scheduler.config import SchedulerConfig

FLEET = TokenTrace("small fleet", sessions=8, turns=2, shared=4000, new=800, answer=40)
LONG = TokenTrace("long prompt", sessions=7, turns=1, shared=2000, new=100, answer=150, long=12_000)


def play(trace: TokenTrace, device: SimulatedDevice, target_ms: float) -> SimulatedPlay:
    played = SimulatedPlay(trace, device, SchedulerConfig(32, MAX_STEP_TOKENS, target_ms))
    played.run()
    return played


def mean_turn_s(played: SimulatedPlay) -> float:
    return sum(turn.token_s[-1] - turn.sent_s for turn in played.done) / len(played.done)


@pytest.mark.parametrize("shares_pass", [False, True], ids=["own pass", "shared pass"])
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_the_default_target_is_near_the_best_for_turns_on_every_device(
    device: SimulatedDevice, shares_pass: bool
) -> None:
    device = replace(device, shares_pass=shares_pass)
    default = mean_turn_s(play(FLEET, device, SchedulerConfig().itl_target_ms))
    others = [mean_turn_s(play(FLEET, device, target_ms)) for target_ms in (60, 1000)]
    assert default < 1.1 * min(others)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_long_prompt_takes_at_most_its_share_from_those_who_decode(device: SimulatedDevice) -> None:
    """And they from it: its first token comes within two and a half times its time alone."""
    beside = play(LONG, device, SchedulerConfig().itl_target_ms)
    alone = play(TokenTrace("alone", 1, 1, 0, LONG.long, 16), device, SchedulerConfig().itl_target_ms)
    first_s, alone_s = (turn.token_s[0] - turn.sent_s for turn in (beside.long[0], alone.done[0]))
    assert first_s < 2.5 * alone_s
    pauses = sorted(
        later - earlier
        for turn in beside.done
        for earlier, later in zip(turn.token_s, turn.token_s[1:], strict=False)
    )
    assert pauses[99 * len(pauses) // 100] < 1.5 * SchedulerConfig().itl_target_ms / 1000


def test_every_trace_has_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--scale", "0.02", "--settings", "auto:250", "64:100", "--device", "H200"])
    shown = capsys.readouterr().out
    assert all(f"H200, 4B bf16, {trace.name}\n" in shown for trace in TRACES)
    assert shown.count("auto:250") == shown.count("64:100") == 2 * len(TRACES)
