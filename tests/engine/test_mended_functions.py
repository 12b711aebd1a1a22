from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine import mended_functions
from pensieve.engine.find_functions import find_functions
from pensieve.engine.mended_functions import mended_on_cuda

from ..families.random_model import random_model


def test_on_cuda_no_product_of_experts_is_told_that_its_rows_are_sorted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass gives what it gives on the CPU otherwise, which multiplies sorted rows rightly."""
    model, tokens = random_model("gpt_oss"), mx.array([list(range(3, 103))])
    are_sorted: list[bool] = []
    gather_mm = mx.gather_mm

    def noted(*arrays: mx.array, sorted_indices: bool = False, **named: Any) -> mx.array:
        are_sorted.append(sorted_indices)
        return gather_mm(*arrays, sorted_indices=sorted_indices, **named)

    monkeypatch.setattr(mx, "gather_mm", noted)
    expected = model(tokens, cache=make_prompt_cache(model))
    assert all(are_sorted)
    are_sorted.clear()
    with mended_on_cuda(model):
        found = model(tokens, cache=make_prompt_cache(model))
    assert are_sorted
    assert not any(are_sorted)
    assert mx.abs(found - expected).max() < 1e-3 * mx.abs(expected).max()


def test_what_passes_replace_on_cuda_has_what_mlx_computes_wrongly_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The passes of a model, and not only those that judge them, are mended."""
    model = random_model("gpt_oss")
    mended = {(each.owner, each.name) for each in mended_on_cuda(model).replacements}
    assert mended
    monkeypatch.setattr(mended_functions, "on_cuda", lambda functions: functions)
    found = find_functions(model, on_host=False).replacements
    assert mended <= {(each.owner, each.name) for each in found}
