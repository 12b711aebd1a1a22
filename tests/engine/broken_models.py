"""Ways in which a model folder can be broken, and the message that each one is to give."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..models import write_tokenizer

WEIGHTS = "model.safetensors"

Damage = Callable[[Path], object]


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    values = (json.loads(file.read_text()) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def shard(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for number, part in enumerate([names[::2], names[1::2]], start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def config(**changes: object) -> Damage:
    return lambda folder: edit(folder / "config.json", **changes)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def tensors(header: object, data: bytes = b"") -> Damage:
    raw = json.dumps(header).encode()
    return write(WEIGHTS, struct.pack("<Q", len(raw)) + raw + data)


def tensor(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def change(change_weights: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change_weights(weights)
        save_file(weights, folder / WEIGHTS)

    return damage


def lengthen(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"12")


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def swap_shards(folder: Path) -> None:
    shard(folder)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")


def leave_the_folder(folder: Path) -> None:
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../model.safetensors"})


def only_pickles(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def ask_for_cold_sampling(folder: Path) -> None:
    edit(folder / "generation_config.json", do_sample=True, temperature=-1)


def make_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def name_a_long_file(folder: Path) -> None:
    edit(folder / "model.safetensors.index.json", weight_map={"a": "a" * 5000})


def ask_for_endless_sampling(folder: Path) -> None:
    edit(folder / "generation_config.json", do_sample=True, top_k=float("inf"))


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"

BROKEN: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, r"no such model folder: .*model"),
    "no config": (remove("config.json"), r"config\.json is missing"),
    "config cut": (cut("config.json", 20), r"config\.json cannot be read: "),
    "config a list": (write("config.json", b"[]"), r"config\.json cannot be read: not a JSON object"),
    "config nested": (write("config.json", b"[" * 10**5), r"config\.json cannot be read"),
    "config binary": (write("config.json", b"\xff\xfe"), r"config\.json cannot be read"),
    "no model_type": (config(model_type=None), r"config\.json has no usable model_type"),
    "path as model_type": (config(model_type="../x"), r"config\.json has no usable model_type"),
    "unknown model_type": (config(model_type="nosuch"), r"cannot be loaded: .*nosuch not supported"),
    "no vocab_size": (config(vocab_size=None), r"cannot be loaded: .*'vocab_size'"),
    "lacks a package": (config(model_type="olmo"), r"cannot be loaded: To run olmo install ai2-olmo"),
    "wrong hidden size": (config(hidden_size=32), r"cannot be loaded: .*shape"),
    "missing argument": (config(rms_norm_eps=None), r"cannot be loaded: .*rms_norm_eps"),
    "layers without end": (
        config(num_hidden_layers=10**9),
        r"more layers than any model has: num_hid",
    ),
    "own code": (config(model_file="evil.py"), r"config\.json asks to run code of the model"),
    "no weights": (remove(WEIGHTS), r"no weights in .*: model\*\.safetensors is missing"),
    "pickles": (only_pickles, r"no weights in .*found pytorch_model\.bin, a format that Pensieve does not"),
    "empty weights": (cut(WEIGHTS, 0), r"model\.safetensors is not a safetensors file"),
    "cut in header": (cut(WEIGHTS, 40), r"model\.safetensors is truncated: it ends inside its header"),
    "cut in data": (cut(WEIGHTS, 800_000), r"model\.safetensors is truncated: [\d,]+ bytes are missing"),
    "too long": (lengthen, r"model\.safetensors is malformed: 2 bytes too many"),
    "header of noise": (write(WEIGHTS, b"\x08" + b"\0" * 7 + b"\xff" * 8), r"has a malformed header"),
    "header a list": (tensors([]), r"model\.safetensors has a malformed header"),
    "wrong tensor size": (tensors({"a": tensor([2], 0, 4)}, b"1234"), r"does not match its 4 bytes"),
    "huge tensor": (tensors({"a": tensor([2**62], 0, 2**64)}), r"truncated: [\d,]+ bytes are missing"),
    "negative tensor": (tensors({"a": tensor([-1], 4, 0)}), r"not a natural number"),
    "overlap": (tensors({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"1234"), r"header: b overlaps"),
    "missing shard": (lose_a_shard, r"model-00002-of-00002\.safetensors is missing"),
    "wrong shard": (swap_shards, r"model-00002-of-00002\.safetensors lacks the tensor"),
    "index outside": (leave_the_folder, r"index\.json names a file outside its folder: '\.\./model\.safe"),
    "index of a long name": (name_a_long_file, r"/a{255} is missing"),
    "a folder as weights": (make_folder(WEIGHTS), r"no weights in .*found model\.safetensors"),
    "missing tensor": (change(lambda w: w.pop(NORM)), r"cannot be loaded: .*model\.norm\.weight"),
    "wrong shape": (change(lambda w: w.update({NORM: w[NORM][:32]})), r"cannot be loaded: .*shape"),
    "integer weights": (
        change(lambda w: w.update({UP: np.ones(w[UP].shape, np.uint8)})),
        r"weights of model\.layers\.1\.mlp\.up_proj are uint8 numbers without scales",
    ),
    "NaN": (change(lambda w: w[NORM].fill(np.nan)), r"is broken: the weights model\.norm\.weight hold NaN"),
    "infinity": (change(lambda w: w[NORM].fill(-np.inf)), r"is broken: the weights model\.norm\.weight"),
    "no tokenizer": (remove("tokenizer.json"), r"no tokenizer in .*: tokenizer\.json is missing"),
    "tokenizer cut": (cut("tokenizer.json", 100), r"tokenizer\.json cannot be read"),
    "tokenizer empty": (write("tokenizer.json", b"{}"), r"the tokenizer in .* cannot be loaded"),
    "foreign tokenizer": (
        lambda folder: write_tokenizer(folder, 900, "abcdefghijklmnopqrstuvwxyz"),
        r"has 900 tokens, the model 512: they do not belong",
    ),
    "endless sampling": (ask_for_endless_sampling, r"generation_config\.json: cannot convert float infinity"),
    "bad sampling": (ask_for_cold_sampling, r"generation_config\.json: temperature must lie between"),
}
