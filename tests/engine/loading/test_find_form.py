"""The forms of a model in which a GPU's kernels are tried."""

from dataclasses import replace
from typing import Any

import pytest

from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.fused_model import fuse
from pensieve.engine.loading import build
from pensieve.engine.pass_functions import PassFunctions

from ..recurrent_models import recurrent_model


class Tried:
    """Stands for `usable_kernels`: the kernels work in the form of this number, from 0 on."""

    def __init__(self, works_at: int) -> None:
        self.works_at = works_at
        self.forms: list[PagedModel] = []

    def __call__(self, paged: PagedModel) -> Any:
        self.forms.append(paged)
        return object() if len(self.forms) == self.works_at + 1 else None


@pytest.mark.parametrize("works_at", range(4))
def test_states_leave_their_slots_before_rotations_are_given_up(
    monkeypatch: pytest.MonkeyPatch, works_at: int
) -> None:
    tried = Tried(works_at)
    monkeypatch.setattr(build, "usable_kernels", tried)
    paged = fuse(probe(recurrent_model("qwen3_next"), 16))
    paged = replace(paged, functions=PassFunctions((), num_slot_layers=len(paged.states)))
    form, kernels = build.find_form(paged)
    assert (kernels is not None) == (works_at < 3)
    assert form is tried.forms[-1]
    assert [each.functions.num_slot_layers > 0 for each in tried.forms] == [True, False, False][
        : works_at + 1
    ]
    has_rotations = [any(spec.rotation for spec in each.layers) for each in tried.forms]
    assert has_rotations == [True, True, False][: works_at + 1]


def test_a_model_without_recurrent_layers_has_two_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(9)
    monkeypatch.setattr(build, "usable_kernels", tried)
    paged = replace(probe(recurrent_model("qwen3_next"), 16), functions=PassFunctions())
    assert build.find_form(paged)[1] is None
    assert len(tried.forms) == 2
