"""A tiny model of a family without a folder."""

from typing import Any

import mlx.core as mx
import mlx_lm.utils

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner

from ..models import random_weights
from .table import FAMILIES


def random_model(name: str, **changes: Any) -> Any:
    """Make a float32 model of the family `name` with random weights; changes: of its configuration."""
    family = FAMILIES[name]
    config = family.full_config | changes
    weights = random_weights(config, seed=0, scale=family.scale, vector_noise=0.1)
    model_class, args_class = mlx_lm.utils._get_classes(config)
    model: Any = model_class(args_class.from_dict(config))
    model.load_weights([(name, mx.array(array)) for name, array in weights.items()])
    model.eval()
    return model


def build_family(name: str, capacity: Capacity) -> tuple[Runner, None]:
    """Make the runner of such a model on the host, for an engine's process."""
    return Runner(probe(random_model(name), 16), capacity, on_host=True), None
