"""The bench of recurrent layers measures models that both sides can run."""

from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import pytest

from pensieve.bench.micro.recurrent import decode, make_model, prefill, take_turns
from pensieve.bench.micro.recurrent_families import family_configs
from pensieve.engine.find_functions import find_functions


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("family", family_configs(256))
def test_both_sides_run_each_family(family: str) -> None:
    model = make_model(family, family_configs(256)[family])
    functions = find_functions(model, on_host=True)
    for run in (partial(prefill, model, 8), decode(model, num_rows=2, num_steps=1)):
        turns = take_turns(run, functions, repeat=1)
        assert len(turns.theirs) == len(turns.ours) == 1
        assert "tokens/s, x " in turns.report(8)
