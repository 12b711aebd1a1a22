"""Failures inside a step, and the border to plain data."""

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from pensieve.cache.kv import Pool
from pensieve.engine import paged
from pensieve.engine.attention import Scoring
from pensieve.engine.host_attention import HostAttention
from pensieve.engine.runner import Runner
from pensieve.engine.selfcheck import disagreement
from pensieve.engine.step import StepFailed, StepPlan
from pensieve.scheduler.sequence import Sequence

from ..models import WINDOWED, write_model
from .harness import Machine, Verdict

BOTH = pytest.mark.parametrize("on_host", [True, False])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlx_lm.utils.load_model(write_model(tmp_path_factory.mktemp("llama")))[0]


class Broken(Runner):
    """Raises in the middle of steps that hold a token it does not like, when KV is already written."""

    bad_token = 511

    def _forward(self, plan: StepPlan) -> mx.array:
        tokens = super()._forward(plan)
        fed = [row.token for row in plan.decode] + [token for chunk in plan.prefill for token in chunk.tokens]
        if self.bad_token in fed:
            raise RuntimeError("[metal] injected")
        return tokens


@BOTH
def test_neighbours_of_a_failed_step_stay_exact(model: Any, on_host: bool) -> None:
    """Dropping the bad row and going on corrupted every neighbour in a trial with mlx-lm's own generator."""
    rng, verdict = random.Random(1), Verdict()
    machine = Machine(Broken(model, 100, on_host), num_blocks=100)
    good: list[Sequence] = []
    for i in range(8):
        prompt = [rng.randrange(500) for _ in range(rng.randint(20, 80))]
        good.append(machine.add(prompt, 30))
        if i % 3 == 2:
            bad = machine.add([*prompt[:15], Broken.bad_token, 4, 4], 30)
        for _ in range(i):
            try:
                machine.step()
            except StepFailed:
                machine.scheduler.fail()
    machine.finish(recovers=True)
    assert bad.finish_reason == "error"
    finished = [sequence for sequence in good if sequence.finish_reason == "length"]
    assert len(finished) >= 6, "only a sequence that samples the bad token itself may fail"
    for sequence in finished:
        verdict.judge(model, sequence)
    assert verdict.wrong == 0


class Poisoned(Runner):
    """Gives NaN logits to one row of the fifth step."""

    def logits(self, rows: list[Any]) -> mx.array:
        out = super().logits(rows)
        is_bad = mx.array([row.seq_id == 2 and row.position > 24 for row in rows])
        return mx.where(is_bad[:, None], mx.nan, out)


@BOTH
def test_not_a_number_ends_one_sequence_and_leaves_the_others_exact(model: Any, on_host: bool) -> None:
    machine, verdict = Machine(Poisoned(model, 100, on_host), num_blocks=100), Verdict()
    sequences = [machine.add([i, 3, 5] * 7, 20) for i in range(4)]
    machine.finish()
    assert [s.finish_reason for s in sequences] == ["length", "error", "length", "length"]
    for sequence in (sequences[0], *sequences[2:]):
        verdict.judge(model, sequence)
    assert verdict.wrong == 0


@BOTH
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "phi3", "mixtral", *WINDOWED])
def test_the_self_check_agrees_on_sound_models(tmp_path: Path, model_type: str, on_host: bool) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert disagreement(model, 512, on_host) < 0.1


def test_the_self_check_sees_a_wrong_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the last token of every decode row: the check must notice."""
    honest = HostAttention.attend

    def forgetful(self: Any, queries: Any, keys: Any, values: Any, reads: Any, scoring: Any) -> Any:
        if queries.shape[2] == 1:
            reads = [
                replace(seg, runs=(*seg.runs[:-1], (seg.runs[-1][0], seg.runs[-1][1] - 1))) for seg in reads
            ]
        return honest(self, queries, keys, values, reads, scoring)

    monkeypatch.setattr(HostAttention, "attend", forgetful)
    assert disagreement(model, 512, on_host=True) > 1


# Not gpt_oss: where the order of a sum changes a code, the random router may choose another expert.
@BOTH
@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
def test_the_self_check_agrees_on_quantised_kv(
    tmp_path: Path, model_type: str, kv_bits: int, on_host: bool
) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert disagreement(model, 512, on_host, kv_bits=kv_bits) < 0.1


@BOTH
def test_the_self_check_sees_wrong_codes(model: Any, monkeypatch: pytest.MonkeyPatch, on_host: bool) -> None:
    """A scale that is off by one part in fifty, in what is read from the pools."""
    honest = Pool.__getitem__
    monkeypatch.setattr(Pool, "__getitem__", lambda pool, index: honest(pool, index) * 1.02)
    assert disagreement(model, 512, on_host, kv_bits=8) > 1


@BOTH
@pytest.mark.parametrize("change", [{"window": None}, {"window": 25}, {"sinks": None}])
def test_the_self_check_sees_a_wrong_window_and_lost_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_host: bool, change: dict[str, Any]
) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path, "gpt_oss"))[0]

    def forgetful(scale: float, window: int | None, sinks: Any) -> Any:
        kept = {"window": window, "sinks": sinks}
        return Scoring(scale, **kept | {name: change[name] for name in change if kept[name] is not None})

    monkeypatch.setattr(paged, "Scoring", forgetful)
    assert disagreement(model, 512, on_host) > 1


def test_plans_can_cross_a_process_border(model: Any) -> None:
    machine = Machine(Runner(model, 20, True), num_blocks=20)
    machine.add([1, 2, 3] * 30, 4)
    plan = machine.scheduler.schedule()
    assert plan is not None
    assert pickle.loads(pickle.dumps(plan)) == plan
