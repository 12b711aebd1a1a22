from pathlib import Path

import mlx_lm.utils
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import StepsDone
from pensieve.engine.warm_up import SAMPLINGS, warm_up

from ..models import write_model
from .attention.plain_kernels import PlainKernels, PlainRunner


@pytest.mark.parametrize("num_blocks", [1, 8])
@pytest.mark.parametrize("on_host", [True, False])
def test_every_kind_of_step_runs_before_the_first_request(
    tmp_path: Path, num_blocks: int, on_host: bool
) -> None:
    paged = probe(mlx_lm.utils.load_model(write_model(tmp_path))[0], 16)
    runner = Runner(paged, Capacity(num_blocks), on_host)
    warm_up(runner, paged.vocab_size, Capacity(num_blocks))
    assert runner.drain() == StepsDone(), "nothing is left in flight"
    kinds = {(s.is_greedy, bool(s.top_k)) for s in SAMPLINGS}
    assert len(kinds) == len(SAMPLINGS)


@pytest.mark.parametrize("num_window_blocks", [None, 3])
def test_it_runs_through_kernels_too(tmp_path: Path, num_window_blocks: int | None) -> None:
    paged = probe(mlx_lm.utils.load_model(write_model(tmp_path, "gemma3_text"))[0], 16)
    capacity = Capacity(4, 0, num_window_blocks)
    runner = PlainRunner(paged, capacity, False, PlainKernels())
    warm_up(runner, paged.vocab_size, capacity)
