"""Which models let slices and decode rows share a pass."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.mixed_check import MAX_MIXED_TOKENS, can_mix, choose_mixed_tokens

from ..budget import sampled
from ..families.random_model import random_model
from ..models import WINDOWED, write_model

FAMILIES = ["llama", "qwen2", "qwen3", "phi3", "mixtral", "cohere", "gemma", "glm", "nanochat", "starcoder2"]


@pytest.mark.parametrize(
    "model_type", sampled([*FAMILIES, *WINDOWED], kept=["llama", "mixtral", "starcoder2", "gpt_oss"])
)
def test_all_families_can_share_a_pass(tmp_path: Path, model_type: str) -> None:
    model = mlx_lm.utils.load_model(write_model(tmp_path / model_type, model_type))[0]
    for on_host, kv_bits in ((True, 16), (False, 16), (True, 8)):
        if (model_type, kv_bits) not in {("gpt_oss", 8), ("mixtral", 8)}:  # a code may choose the expert
            assert can_mix(probe(model, kv_bits), on_host, None)


def test_only_numpy_attention_is_known_to_gain(model: Any) -> None:
    assert choose_mixed_tokens(probe(model, 16), on_host=True) == MAX_MIXED_TOKENS
    assert choose_mixed_tokens(probe(model, 16), on_host=False) == 0


def test_a_model_whose_last_layers_keep_nothing_takes_several_passes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reason that was logged was NumPy's, of logits that have too many rows."""
    with caplog.at_level("INFO"):
        assert not can_mix(probe(random_model("gemma4"), 16), True, None)
    assert "passes of their own: the model's last layer keeps nothing" in caplog.text


def _read_neighbours(x: mx.array) -> mx.array:
    """Add to each row something of all rows."""
    return x + 0.5 * x.mean(axis=(0, 1))


@pytest.mark.parametrize("change", [_read_neighbours, lambda x: mx.array(mx.nan) * x])
def test_a_model_that_computes_otherwise_in_one_pass_takes_several(
    model: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = type(model.model.norm)
    call = norm.__call__
    monkeypatch.setattr(norm, "__call__", lambda self, x: change(call(self, x)))
    assert not can_mix(probe(model, 16), True, None)


def test_a_model_whose_layers_cannot_be_divided_takes_several_passes(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It adds to the last layer's rows what it has of all rows."""
    inner = type(model.model)
    call = inner.__call__

    def residual(self: Any, inputs: mx.array, *args: Any, **options: Any) -> mx.array:
        result: mx.array = call(self, inputs, *args, **options) + self.embed_tokens(inputs)
        return result

    monkeypatch.setattr(inner, "__call__", residual)
    assert not can_mix(probe(model, 16), True, None)
