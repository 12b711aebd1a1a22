"""Model folders: what a sound one says, and one clear line for each way to be broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ConcatenateKVCache, KVCache, RotatingKVCache
from safetensors.numpy import load_file, save_file

from pensieve.engine.loading import lazy_model
from pensieve.engine.loading.loader import compute_dtype, load
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo, read_model_info
from pensieve.engine.loading.tokenizer import load_tokenizer
from pensieve.engine.step import SamplingParams

from ...models import WINDOWED, write_model
from ..broken_models import BROKEN, WEIGHTS, edit, shard


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def read_info(folder: Path, dtype: str | None = None, kv_bits: int = 16) -> ModelInfo:
    return read_model_info(folder, "tiny", dtype, kv_bits)


def open_model(folder: Path) -> ModelInfo:
    """Read a folder's facts and load it; return the facts."""
    info = read_info(folder, compute_dtype())
    load(info)
    return info


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_ordinary_models_load(tmp_path: Path, model_type: str) -> None:
    info = open_model(write_model(tmp_path, model_type, head_dim=16))
    assert (info.model_type, info.vocab_size, info.num_layers) == (model_type, 512, 3)
    assert info.kv_bytes_per_token == 3 * 2 * 16 * 2 * 4
    tokenizer = load_tokenizer(info)
    assert tokenizer.decode(tokenizer.encode("héllo")) == "héllo"


def test_what_is_read_agrees_with_what_is_loaded(tiny_model: Path) -> None:
    info = read_info(tiny_model, compute_dtype())
    assert load(info).vocab_size == info.vocab_size
    assert load(info).kv_bytes_per_token == info.kv_bytes_per_token
    assert info.weight_bytes == sum(array.nbytes for array in load_file(tiny_model / WEIGHTS).values())


def test_the_kv_size_is_the_models_not_the_configs(folder: Path) -> None:
    """qwen2 has no head_dim of its own and ignores the config's; the first plan was twice too large."""
    write_model(folder, "qwen2", head_dim=32)
    assert read_info(folder, "float32").kv_bytes_per_token == 3 * 2 * 16 * 2 * 4


@pytest.mark.parametrize(("kv_bits", "expected"), [(8, 32 + 8), (4, 16 + 8)])
def test_quantised_kv_is_sized_with_its_scales(tiny_model: Path, kv_bits: int, expected: int) -> None:
    info = read_info(tiny_model, "float32", kv_bits)
    assert info.kv_bytes_per_token == 3 * 2 * 2 * expected
    assert load(info).kv_bytes_per_token == info.kv_bytes_per_token
    assert info.kv_type == f"{kv_bits}-bit"
    assert read_info(tiny_model, "float32").kv_type == "float32"


def test_heads_that_cannot_be_quantised_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, head_dim=24)
    load(read_info(folder, "float32"))
    with pytest.raises(ModelError, match="heads of a multiple of 16 elements, not 24: leave --kv-bits at 16"):
        read_info(folder, "float32", kv_bits=8)


def test_half_precision_is_computed_in_float32_on_the_cpu(folder: Path) -> None:
    weights = {name: array.astype(np.float16) for name, array in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    assert read_info(folder).dtype == "float16"
    if compute_dtype() is None:
        pytest.skip("MLX computes on a GPU here")
    info = open_model(folder)
    assert info.dtype == "float32"
    assert info.weight_bytes == 2 * sum(array.nbytes for array in weights.values())
    paged: Any = load(info)
    assert paged.model.model.embed_tokens.weight.dtype == mx.float32


def test_a_config_that_only_transformers_refuses_is_served(folder: Path) -> None:
    """A size written as 1 for 1.0 is enough; the tokenizer needs nothing of the config but the type."""
    edit(folder / "config.json", attention_dropout="none", rms_norm_eps=1)
    info = open_model(folder)
    tokenizer = load_tokenizer(info)
    assert tokenizer.chat_template
    assert tokenizer.eos_token_ids == info.eos_token_ids


def test_a_quantised_model_is_described(folder: Path) -> None:
    edit(folder / "config.json", quantization={"bits": 4, "group_size": 64})
    assert read_info(folder).quantization == "4-bit"


def test_sharded_weights_load(folder: Path) -> None:
    shard(folder)
    assert open_model(folder).num_layers == 3


def test_end_tokens_come_from_every_file(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=7)
    edit(folder / "generation_config.json", eos_token_id=[8, 9, 100_000])
    assert read_info(folder).eos_token_ids == {7, 8, 9, 258}


def test_a_turn_end_that_only_the_template_knows_ends_an_answer(folder: Path) -> None:
    """Old conversions of Phi-3 name <|endoftext|> alone, and would go on as the user after <|end|>."""
    edit(folder / "config.json", eos_token_id=256)
    edit(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    assert 258 in read_info(folder).eos_token_ids


def test_a_token_that_begins_a_result_ends_an_answer(folder: Path) -> None:
    """Else Gemma 4 would go on behind a call, with a result of its own making."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<|tool_response>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    number = tokenizer["added_tokens"][0]["id"]
    assert number not in read_info(folder).eos_token_ids
    (folder / "chat_template.jinja").write_text("{{ messages }}<|tool_response>")
    assert number in read_info(folder).eos_token_ids


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        ({}, SamplingParams()),
        ({"temperature": 0.7}, SamplingParams()),
        ({"do_sample": False, "temperature": 0.7}, SamplingParams()),
        ({"do_sample": True}, SamplingParams(temperature=1.0)),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05},
            SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0.05),
        ),
        ({"do_sample": True, "repetition_penalty": 1.05}, SamplingParams(temperature=1.0)),
    ],
)
def test_sampling_is_greedy_unless_the_model_asks(
    folder: Path, generation: dict[str, Any], sampling: SamplingParams
) -> None:
    edit(folder / "generation_config.json", **generation)
    assert read_info(folder).default_sampling == sampling


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(folder: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_tokenizer(open_model(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("model_type", WINDOWED)
def test_models_with_windows_load(tmp_path: Path, model_type: str) -> None:
    assert open_model(write_model(tmp_path, model_type)).num_layers == 3


def test_another_kind_of_cache_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that rotates, but for its first tokens, which it keeps for ever."""
    caches = [KVCache(), ConcatenateKVCache(), RotatingKVCache(64, keep=4)]
    monkeypatch.setattr(lazy_model, "make_prompt_cache", lambda _: caches)
    message = r"own kind \(ConcatenateKVCache\), a window that keeps .* \(RotatingKVCache\)"
    with pytest.raises(ModelError, match=message):
        open_model(folder)


def test_layers_that_share_their_kv_take_no_memory(tmp_path: Path) -> None:
    write_model(tmp_path, "gemma4_text")
    whole = open_model(tmp_path).kv_bytes_per_token
    edit(tmp_path / "config.json", num_kv_shared_layers=1, use_double_wide_mlp=False)
    assert open_model(tmp_path).kv_bytes_per_token < whole


AUTO_MAP = {
    name: f"evil.{name}"
    for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
}

LOAD = """
import sys
from pathlib import Path
from pensieve import PensieveError
from pensieve.engine.loading.loader import load
from pensieve.engine.loading.model_info import read_model_info
from pensieve.engine.loading.tokenizer import load_tokenizer
try:
    info = read_model_info(Path(sys.argv[1]), "tiny", None, 16)
    load(info)
    load_tokenizer(info)
except PensieveError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json"]
)
def test_code_in_a_model_folder_never_runs(folder: Path, file: str) -> None:
    """Nor is anybody asked, on the terminal or on the network, whether it may."""
    sentinel = folder / "it_ran"
    evil = f"open({str(sentinel)!r}, 'w')\nclass AutoTokenizer: pass\n"
    for name in ("evil.py", "sitecustomize.py", "tokenization_evil.py", "modeling_evil.py", "__init__.py"):
        (folder / name).write_text(evil)
    auto_map = AUTO_MAP | ({"AutoTokenizer": ["evil.A", "evil.B"]} if file == "tokenizer_config.json" else {})
    edit(folder / file, auto_map=auto_map, custom_pipelines={"x": {"impl": "evil.X"}}, trust_remote_code=True)
    dead_end = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", LOAD, str(folder)]
    child = subprocess.run(
        command,
        env=os.environ | dead_end,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not sentinel.exists()
    assert child.returncode == 0, child.stderr
    assert "trust_remote_code" not in child.stderr
