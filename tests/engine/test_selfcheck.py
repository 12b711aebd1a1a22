"""What the self-check sees, and which kernels it lets pass."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from pensieve.cache.kv import Pool
from pensieve.engine import decode_graphs, selfcheck
from pensieve.engine.attention import paged_model
from pensieve.engine.attention.array_attention import AttentionParams
from pensieve.engine.attention.host_attention import HostAttention
from pensieve.engine.attention.kernels.batch_tables import TableSource
from pensieve.engine.attention.kernels.layer_pools import LayerPools
from pensieve.engine.attention.kernels.paged_kernels import PagedKernels
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.selfcheck import logits_error

from ..models import WINDOWED, write_model
from .attention.plain_kernels import Pair, PlainKernels, PlainRunner

BOTH = pytest.mark.parametrize("on_host", [True, False])


@BOTH
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "phi3", "mixtral", *WINDOWED])
def test_the_self_check_agrees_on_sound_models(tmp_path: Path, model_type: str, on_host: bool) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert logits_error(probe(model, 16), on_host) < 0.1


def test_the_self_check_sees_a_wrong_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the last token of every decode row: the check must notice."""
    honest = HostAttention.attend

    def forgetful(self: Any, queries: Any, keys: Any, values: Any, prefixes: Any, params: Any) -> Any:
        if queries.shape[2] == 1:
            prefixes = [
                replace(prefix, slot_ranges=last_slot_forgotten(prefix.slot_ranges)) for prefix in prefixes
            ]
        return honest(self, queries, keys, values, prefixes, params)

    def last_slot_forgotten(slot_ranges: Any) -> Any:
        *others, (first, end) = slot_ranges
        return (*others, (first, end - 1))

    monkeypatch.setattr(HostAttention, "attend", forgetful)
    assert logits_error(probe(model, 16), on_host=True) > 1


# Not gpt_oss: where the order of a sum changes a code, the random router may choose another expert.
@BOTH
@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
def test_the_self_check_agrees_on_quantised_kv(
    tmp_path: Path, model_type: str, kv_bits: int, on_host: bool
) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    assert logits_error(probe(model, kv_bits), on_host) < 1


@BOTH
def test_a_code_that_rounds_the_other_way_is_no_disagreement(
    model: Any, monkeypatch: pytest.MonkeyPatch, on_host: bool
) -> None:
    """Keys that differ in their last bits, as BLAS kernels compute them, were called wrong on some CPUs."""
    honest, is_first = Pool.__setitem__, iter([True])

    def rounded(pool: Pool, index: Any, elements: Any) -> None:
        honest(pool, index, elements)
        if next(is_first, False):
            slot = int(index[1][0])
            pool.rows[0, slot, 0] = pool.rows[0, slot, 0] ^ 1

    monkeypatch.setattr(Pool, "__setitem__", rounded)
    assert 0.001 < logits_error(probe(model, 8), on_host) < 1


@BOTH
def test_the_self_check_sees_wrong_codes(model: Any, monkeypatch: pytest.MonkeyPatch, on_host: bool) -> None:
    """A scale that is off by one part in fifty, in what is read from the pools."""
    honest = Pool.__getitem__
    monkeypatch.setattr(Pool, "__getitem__", lambda pool, index: honest(pool, index) * 1.02)
    assert logits_error(probe(model, 8), on_host) > 1


@BOTH
@pytest.mark.parametrize("change", [{"window": None}, {"window": 25}, {"sinks": None}])
def test_the_self_check_sees_a_wrong_window_and_lost_sinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_host: bool, change: dict[str, Any]
) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path, "gpt_oss"))[0]

    def forgetful(scale: float, window: int | None, sinks: Any) -> Any:
        kept = {"window": window, "sinks": sinks}
        return AttentionParams(
            scale, **kept | {name: change[name] for name in change if kept[name] is not None}
        )

    monkeypatch.setattr(paged_model, "AttentionParams", forgetful)
    assert logits_error(probe(model, 16), on_host) > 1


class WrongKernels(PlainKernels):
    def decode(
        self, queries: mx.array, new: Pair, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> Pair:
        out, fence = super().decode(queries, new, pools, batch, params)
        return out * 1.5, fence


class NanKernels(PlainKernels):
    """Right but for one batch, whose attention holds NaN: `max` of errors lost it."""

    def decode(
        self, queries: mx.array, new: Pair, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> Pair:
        out, fence = super().decode(queries, new, pools, batch, params)
        return (out * mx.nan if len(queries) == len(selfcheck.OWN) else out), fence


class ForgetfulKernels(PlainKernels):
    """Right in each step, but wrong in what they store."""

    def decode(
        self, queries: mx.array, new: Pair, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> Pair:
        out, stored = super().decode(queries, new, pools, batch, params)
        return out, mx.zeros_like(stored)


class BrokenKernels(PlainKernels):
    def append(self, new: Pair, pools: LayerPools, slots: mx.array) -> mx.array:
        raise RuntimeError("the compiler is missing")


def test_kernels_that_agree_are_used(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = PlainKernels()
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: kernels)
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    assert selfcheck.usable_kernels(probe(model, 16)) is kernels


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        (WrongKernels(), "compute wrongly"),
        (NanKernels(), "compute wrongly"),
        (ForgetfulKernels(), "compute wrongly"),
        (BrokenKernels(), "the compiler is missing"),
    ],
)
def test_kernels_that_fail_are_left_out_with_a_warning(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernels: PagedKernels,
    reason: str,
) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda has_tiles: kernels if has_tiles else None)
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    with caplog.at_level(logging.WARNING):
        assert selfcheck.usable_kernels(probe(model, 16)) is None
    assert reason in caplog.text


def test_kernels_without_tiles_are_used_where_those_with_tiles_fail(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels: dict[bool, PagedKernels] = {True: BrokenKernels(), False: PlainKernels()}
    monkeypatch.setattr(selfcheck, "find_kernels", lambda has_tiles: kernels[has_tiles])
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    assert selfcheck.usable_kernels(probe(model, 16)) is kernels[False]


class NarrowKernels(PlainKernels):
    """Wrong for wide heads."""

    def decode(
        self, queries: mx.array, new: Pair, pools: LayerPools, batch: TableSource, params: AttentionParams
    ) -> Pair:
        out, fence = super().decode(queries, new, pools, batch, params)
        return (out if queries.shape[3] == 32 else -out), fence


def test_a_kind_of_layers_that_fails_is_left_to_plain_mlx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where one kind of layers decided for all, Gemma 4's global layers took the kernels from the others."""
    model = mlx_lm.utils.load_model(write_model(tmp_path, "gemma4_text"))[0]
    monkeypatch.setattr(decode_graphs, "MAX_FAILURES", 0)  # no graphs, which take long to compile
    monkeypatch.setattr(selfcheck, "TRIAL_STEPS", 2)
    kernels: dict[bool, PagedKernels] = {True: NarrowKernels(), False: BrokenKernels()}
    monkeypatch.setattr(selfcheck, "find_kernels", lambda has_tiles: kernels[has_tiles])
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    paged = probe(model, 16)
    assert selfcheck.usable_kernels(paged) is kernels[True]
    assert "leave 1 layers to plain MLX" in caplog.text
    assert Runner(paged, Capacity(8), False, kernels[True]).caches.attention_backend.endswith(
        "in 1 of 3 layers"
    )


def test_without_a_gpu_there_are_no_kernels_to_check(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: None)
    assert selfcheck.usable_kernels(probe(model, 16)) is None


def test_kernels_serve_models_with_windows_and_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / "gpt_oss", "gpt_oss"))[0]
    kernels = PlainKernels()
    monkeypatch.setattr(selfcheck, "find_kernels", lambda **_: kernels)
    monkeypatch.setattr(selfcheck, "Runner", PlainRunner)
    assert selfcheck.usable_kernels(probe(model, 16)) is kernels
