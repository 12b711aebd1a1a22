"""Reads the headers of safetensors files, so that a broken model is refused before MLX sees it.

MLX itself accepts overlapping tensors, and its error for a truncated file does not name the file.
No other format is read: pickles can run code, readers of npz and gguf have had memory errors.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .json_files import read_json
from .model_error import ModelError, first_line

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip

LENGTH_BYTES = 8  # a file begins with the length of its header
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
MAX_NAME = 255  # characters of a file's name, in a message
OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz", "*.gguf")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # first byte, counted from the end of the header
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.end - self.begin


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights that mlx-lm reads, in order."""
    return sorted(file for file in folder.glob("model*.safetensors") if not file.is_dir())


def read_weights(folder: Path) -> dict[str, TensorHeader]:
    """Read and check the headers of all weight files of a model folder; keys are tensor names.

    Raises ModelError, which names the file that is missing, truncated or malformed.
    """
    _check_index(folder)
    files = weight_files(folder)
    if not files:
        found = describe_others(path.name for path in folder.iterdir())
        raise ModelError(f"no weights in {folder}: model*.safetensors is missing{found}")
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        tensors |= read_header(file)
    _check_index_tensors(folder, tensors)
    return tensors


def describe_others(names: Iterable[str]) -> str:
    """Return words that name a file of weights that is not read, one of `names`; empty where none is."""
    others = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in OTHER_WEIGHTS))
    if not others:
        return ""
    what = "a name" if others[0].endswith(".safetensors") else "a format"
    return f" (found {others[0]}, {what} that Pensieve does not read)"


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Read one file's header and check it against the file's size. Raises ModelError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
            raise ModelError(f"{file} is not a safetensors file: bad header length")
        if LENGTH_BYTES + length > size:
            raise ModelError(f"{file} is truncated: it ends inside its header")
        raw = stream.read(length)
    tensors = _parse_header(file, raw)
    _check_layout(file, tensors, size - LENGTH_BYTES - length)
    return tensors


def _parse_header(file: Path, raw: bytes) -> dict[str, TensorHeader]:
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _parse_entry(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} has a malformed header: {first_line(error)}") from error


def _parse_entry(entry: dict[str, Any]) -> TensorHeader:
    begin, end = entry["data_offsets"]
    tensor = TensorHeader(entry["dtype"], tuple(entry["shape"]), begin, end)
    if tensor.dtype not in ITEM_BYTES:
        raise ValueError(f"unknown dtype {tensor.dtype!r}")
    numbers = (*tensor.shape, begin, end)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a shape or offset is not a natural number")
    if math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype] != tensor.num_bytes:
        raise ValueError(f"shape {list(tensor.shape)} does not match its {tensor.num_bytes} bytes")
    return tensor


def _check_layout(file: Path, tensors: dict[str, TensorHeader], data_bytes: int) -> None:
    """Check that tensors follow one another without gap or overlap, and fill the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            raise ModelError(f"{file} has a malformed header: {name} overlaps or leaves a gap")
        end = tensor.end
    if end > data_bytes:
        raise ModelError(f"{file} is truncated: {end - data_bytes:,} bytes are missing")
    if end < data_bytes:
        raise ModelError(f"{file} is malformed: {data_bytes - end:,} bytes too many")


def _read_index(folder: Path) -> dict[str, str]:
    """Return the index, file names by tensor names; empty for a model in one file."""
    file = folder / "model.safetensors.index.json"
    if not file.exists():
        return {}
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{file} has no weight_map")
    return weight_map


def _check_index(folder: Path) -> None:
    for name in sorted(set(_read_index(folder).values())):
        if Path(name).name != name:
            raise ModelError(
                f"{folder / 'model.safetensors.index.json'} names a file outside its folder: {name!r}"
            )
        try:
            (folder / name).stat()
        except (OSError, ValueError):  # also for what no file can be called
            raise ModelError(f"{folder / name[:MAX_NAME]} is missing") from None


def _check_index_tensors(folder: Path, tensors: dict[str, TensorHeader]) -> None:
    for tensor, name in _read_index(folder).items():
        if tensor not in tensors:
            raise ModelError(f"{folder / name} lacks the tensor {tensor}")
