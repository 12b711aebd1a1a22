"""What a model keeps of each token and sequence, found without its weights' values."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo, read_model_info

from ...families.table import FAMILIES
from ...models import WINDOW, write_json, write_model
from .odd_configs import DIM, HIDDEN, ODD, ORDINARY, VOCAB


def write_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Write a folder for any config, with zeros of bfloat16."""
    write_model(folder)  # for the tokenizer
    left_out = [key for key in ("head_dim", "num_key_value_heads") if config.get(key, 0) is None]
    given = {key: value for key, value in config.items() if key not in left_out} | {"eos_token_id": 258}
    write_json(folder / "config.json", given)
    model_class, args_class = mlx_lm.utils._get_classes(given)
    parameters: Any = tree_flatten(model_class(args_class.from_dict(given)).parameters())
    weights = {name: mx.zeros(array.shape, mx.bfloat16) for name, array in parameters}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def read_info(folder: Path) -> ModelInfo:
    return read_model_info(folder, "odd", None, 16)


@pytest.mark.parametrize("model_type", ODD)
def test_facts_are_the_models_own(tmp_path: Path, model_type: str) -> None:
    """Some were refused for a key's name, others planned with up to eight times their KV."""
    config, floats, context = ODD[model_type]
    info = read_info(write_folder(tmp_path, config | {"model_type": model_type}))
    assert info.vocab_size == VOCAB
    assert info.num_layers == 4
    assert info.kv_bytes_per_token == 2 * floats
    assert info.context_length == context
    assert info.state_bytes == 0


def test_gemma_3_is_read_as_google_publishes_it(tmp_path: Path) -> None:
    """Its text_config has no vocab_size and no max_position_embeddings; it was refused."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "sliding_window": WINDOW,
        "head_dim": DIM,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    info = read_info(write_folder(tmp_path, config))
    assert (info.vocab_size, info.context_length) == (262_208, 131_072)
    assert info.kv_bytes_per_token == 6 * 4 * 2 * DIM * 2


def test_weights_are_counted_as_they_will_be_in_memory(tmp_path: Path) -> None:
    """Weights of a part that mlx-lm leaves out, such as one for pictures, take no memory."""
    folder = write_folder(tmp_path, ORDINARY | {"model_type": "llama"})
    parameters: Any = tree_flatten(mlx_lm.utils.load_model(folder)[0].parameters())
    num_bytes = sum(array.nbytes for _, array in parameters)
    assert read_info(folder).weight_bytes == num_bytes
    assert read_model_info(folder, "odd", "float32", 16).weight_bytes == 2 * num_bytes


def test_no_weight_is_read(tmp_path: Path) -> None:
    """The files may hold nothing but their headers, as before a download."""
    folder = write_folder(tmp_path, ORDINARY | {"model_type": "qwen3"})
    expected = read_info(folder)
    file = folder / "model.safetensors"
    size, header = file.stat().st_size, 8 + int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("r+b") as stream:
        stream.truncate(header)
        stream.truncate(size)
    before = mx.get_active_memory()
    assert read_info(folder) == expected
    assert mx.get_active_memory() - before < 1_000_000


@pytest.mark.parametrize("said", ["", "to run it install x"])
def test_a_file_of_mlx_lm_that_ends_the_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """mlx-lm's olmo exits where a package is missing; that ended the engine's process with SIGABRT."""

    def load_model(*_: object, **__: object) -> None:
        print(said)
        raise SystemExit(1)

    folder = write_folder(tmp_path, ORDINARY | {"model_type": "llama"})
    monkeypatch.setattr(mlx_lm.utils, "load_model", load_model)
    with pytest.raises(ModelError, match="cannot be loaded: " + (said or "a package that the model needs")):
        read_info(folder)


def test_kv_that_a_model_does_not_keep_is_not_quantised(tmp_path: Path) -> None:
    """`--kv-bits 8` had no effect, and /health told of 8-bit KV."""
    folder = write_folder(tmp_path, FAMILIES["mamba2"].full_config)
    assert (read_info(folder).kv_bytes_per_token, read_info(folder).kv_type) == (0, "none")
    with pytest.raises(ModelError, match=r"^the model keeps no keys and values: leave --kv-bits at 16$"):
        read_model_info(folder, "odd", None, 8)
