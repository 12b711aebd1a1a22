from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import qwen3_moe

from pensieve.engine import rehearsal
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.compiling.kept_kernels import KernelStore, LaunchRecorder
from pensieve.engine.compiling.kernel_text import KernelText
from pensieve.engine.compiling.nvrtc import Compiler
from pensieve.engine.find_functions import assumed_functions
from pensieve.engine.recurrent.kernel_states import states_agree
from pensieve.engine.recurrent.layer_check import usable_layer_step
from pensieve.engine.recurrent.layer_prompt import usable_layer_prompt
from pensieve.engine.recurrent.layer_step import find_layers
from pensieve.engine.rehearsal import RecordingKernels, compile_kernels, rehearse
from pensieve.engine.selfcheck import attention_error, logits_error

from .experts.test_whole_models import SIZES
from .recurrent_models import recurrent_model

EXPERTS = SIZES | {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 128,
}


def recording() -> tuple[RecordingKernels, LaunchRecorder]:
    recorder = LaunchRecorder()
    return RecordingKernels(PagedKernels("cuda", has_wgmma=True), recorder), recorder


def names(recorder: LaunchRecorder) -> set[str]:
    """Return the kernels' names as in `source`."""
    return {name.removeprefix("paged_").rpartition("_")[0] for name, _ in recorder.kernels}


def run_checks(paged: PagedModel, kernels: RecordingKernels) -> None:
    """Do what the checks of a model with gated delta layers do."""
    layers = list(find_layers(paged.model).values())
    usable_layer_step(kernels.launcher, layers)
    usable_layer_prompt(kernels.launcher, layers)
    states_agree(paged.state_arrays, kernels.launcher)
    attention_error(paged, kernels)
    logits_error(replace(paged, functions=assumed_functions(paged.model, kernels)), False, kernels)


def test_the_checks_launch_nothing_that_was_not_rehearsed() -> None:
    paged = probe(recurrent_model("qwen3_next"), 16)
    (rehearsed, first), (checked, second) = recording(), recording()
    rehearse(paged, rehearsed)
    mx.disable_compile()
    try:
        run_checks(paged, checked)
    finally:
        mx.enable_compile()
    assert second.kernels.keys() <= first.kernels.keys()
    assert names(first) >= {"split", "combine", "append", "state_read", "gather", "layer_step", "slot_step"}


def test_few_and_many_pairs_of_experts_are_rehearsed() -> None:
    model = qwen3_moe.Model(qwen3_moe.ModelArgs(**EXPERTS))
    model.set_dtype(mx.bfloat16)
    kernels, recorder = recording()
    rehearse(probe(model, 16), kernels)
    assert names(recorder) >= {"choose_experts", "experts", "sum_experts", "group_pairs", "expert_tiles"}


def test_a_model_that_fails_is_left_to_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a model of its own kind")

    paged = probe(recurrent_model("qwen3_next"), 16)
    monkeypatch.setattr(rehearsal, "attention_trial", fail)
    kernels, recorder = recording()
    rehearse(paged, kernels)
    assert {"append", "layer_step", "slot_step"} <= names(recorder)


def test_what_was_compiled_before_the_checks_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def compile_text(kernel: KernelText) -> tuple[str, bytes]:
        compiled.append(kernel.function)
        return "mangled", b"code"

    store = KernelStore(tmp_path, Compiler("", (), {}))
    monkeypatch.setattr(Compiler, "compile", lambda _, kernel: compile_text(kernel))
    monkeypatch.setattr(rehearsal, "find_kernels", lambda: PagedKernels("cuda", has_wgmma=True))
    monkeypatch.setattr(rehearsal, "open_store", lambda: store)
    paged = probe(recurrent_model("qwen3_next"), 16)
    for _ in range(2):
        compile_kernels(paged)
        assert len(compiled) == len(set(compiled)) == len(list(tmp_path.glob("*.ptx"))) > 8


def test_nothing_is_rehearsed_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: pytest.fail("there is nothing to compile"))
    monkeypatch.setattr(rehearsal, "find_kernels", lambda: None)
    compile_kernels(probe(recurrent_model("qwen3_next"), 16))
