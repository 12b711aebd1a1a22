"""Folders that MLX has quantised, of which a part is broken: each is refused, and none ends the process."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from pensieve.engine.loading.lazy_model import open_model
from pensieve.engine.loading.model_error import ModelError

from ...models import write_model
from ..broken_models import WEIGHTS, edit

UP = "model.layers.1.mlp.up_proj"

Damage = Callable[[dict[str, mx.array]], None]


def write_quantised(folder: Path, damage: Damage, **settings: object) -> Path:
    """Write a llama of 4 bits in groups of 32, of which `damage` changes the tensors."""
    write_model(folder, layers=2)
    weights: dict[str, mx.array] = {}
    for name, array in dict(mx.load(str(folder / WEIGHTS))).items():  # type: ignore[arg-type]
        if name.endswith("_proj.weight"):
            stem = name.removesuffix("weight")
            parts = zip(("weight", "scales", "biases"), mx.quantize(array, 32, 4), strict=True)
            weights |= {stem + part: packed for part, packed in parts}
        else:
            weights[name] = array
    damage(weights)
    mx.eval(weights)
    mx.save_safetensors(str(folder / "new.safetensors"), weights)
    (folder / "new.safetensors").replace(folder / WEIGHTS)
    edit(folder / "config.json", quantization={"group_size": 32, "bits": 4} | settings)
    return folder


def widened(weights: dict[str, mx.array]) -> None:
    """Give a matrix more groups than it has inputs."""
    for part in ("scales", "biases"):
        weights[f"{UP}.{part}"] = mx.repeat(weights[f"{UP}.{part}"], 64, 1)


def integers(part: str) -> Damage:
    return lambda weights: weights.update({f"{UP}.{part}": weights[f"{UP}.{part}"].astype(mx.int32)})


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        (widened, {}, rf"cannot be loaded: {UP}\.scales has 128 groups for 64 inputs"),
        (
            lambda _: None,
            {UP: {"group_size": 0, "bits": 4}},
            f"cannot be loaded: {UP} is quantised in groups of no inp",
        ),
        (integers("scales"), {}, f"cannot be served: the scales of {UP} are int32 numbers"),
        (integers("biases"), {}, f"cannot be served: the biases of {UP} are int32 numbers"),
    ],
)
def test_broken_groups_and_scales_are_refused(
    tmp_path: Path, damage: Damage, settings: dict[str, object], message: str
) -> None:
    """Groups of no inputs ended the process (SIGFPE); integers were taken for scales."""
    folder = write_quantised(tmp_path / "model", damage, **settings)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


def test_a_sound_folder_is_opened(tmp_path: Path) -> None:
    folder = write_quantised(tmp_path / "model", lambda _: None)
    assert open_model(folder).layers[1].mlp.up_proj.bits == 4
