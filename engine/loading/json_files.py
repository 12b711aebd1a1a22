"""Reads the JSON files of a model folder."""

import json
from pathlib import Path
from typing import Any

from .model_error import ModelError, first_line

MAX_JSON_BYTES = 200_000_000  # the largest tokenizers have a tenth of this


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a model folder. Raises ModelError that names the file."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file} cannot be read: larger than {MAX_JSON_BYTES:,} bytes")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} cannot be read: not a JSON object")
    return value


def read_optional_json(file: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one for a file that is missing. Raises ModelError as `read_json`."""
    return read_json(file) if file.exists() else {}


def as_dict(value: object) -> dict[str, Any]:
    """Return a value that should be a JSON object, or an empty object in place of anything else."""
    return value if isinstance(value, dict) else {}
