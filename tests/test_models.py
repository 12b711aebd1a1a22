"""The tests' random models."""

from pathlib import Path

import pytest

from .models import write_model


@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen2"])
def test_a_random_model_is_the_same_every_time(tmp_path: Path, model_type: str) -> None:
    """MLX draws the biases of linear layers, once without a seed: what failed could not be repeated."""
    first, second = (write_model(tmp_path / name, model_type) / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
