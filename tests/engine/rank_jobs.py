"""What the tests of ranks run in the engine's process of rank 0."""

from pathlib import Path
from typing import Any

import mlx_lm.utils

from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.build import PlannedModel, build, plan_model

from .harness import Verdict, judge_trees


def judge_ranks(folder: Path, hostfile: Path, num_trees: int) -> tuple[Verdict, PlannedModel]:
    """Serve random conversation trees on ranks; judge every token by mlx-lm on one device."""
    config = EngineConfig(str(folder), max_context=2048, kv_cache_gb=0.05, hosts=str(hostfile))
    planned = plan_model(folder, config, max_batch=8)
    runner, _ = build(planned)
    model: Any = mlx_lm.utils.load_model(folder)[0]
    return judge_trees(model, runner, num_trees), planned
