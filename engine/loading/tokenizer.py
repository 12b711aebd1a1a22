"""Loads a model's tokenizer, with mlx-lm's knowledge of its tool calls and thoughts. Runs nothing on MLX."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from mlx_lm.tokenizer_utils import load

from .end_tokens import read_processor_template
from .json_files import read_json, read_optional_json
from .model_error import ModelError, first_line
from .model_info import ModelInfo
from .rank_tokenizer import has_ranks, write_tokenizer

TOKENIZER_FILES = (".json", ".jinja", ".txt", ".model")


def load_tokenizer(info: ModelInfo) -> Any:
    """Load mlx_lm's TokenizerWrapper for a model. Raises ModelError, one line."""
    try:
        with _readable_folder(info.path) as folder:
            try:
                tokenizer = _load(info, folder)
            except StrictDataclassError:  # of the model's config, which transformers checks as well
                with _folder_without_config(folder, info.model_type) as plain:
                    tokenizer = _load(info, plain)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"the tokenizer in {info.path} cannot be loaded: {first_line(error)}") from error
    _check_vocabulary(info.path, tokenizer)
    return tokenizer


def _load(info: ModelInfo, folder: Path) -> Any:
    load_untyped: Any = load
    return load_untyped(
        folder,
        # Without this setting, transformers asks on the terminal whether to run the model's code.
        {"trust_remote_code": False, **_find_template(info.path)},
        eos_token_ids=sorted(info.eos_token_ids) or None,
    )


def _find_template(folder: Path) -> dict[str, str]:
    """Return the setting for a chat template in a file of which transformers' tokenizers know nothing."""
    known = read_optional_json(folder / "tokenizer_config.json").get("chat_template")
    is_known = known or (folder / "chat_template.jinja").exists()
    template = None if is_known else read_processor_template(folder)
    return {"chat_template": template} if template else {}


@contextmanager
def _readable_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder itself, or one with a tokenizer built from its table of ranks."""
    if (folder / "tokenizer.json").exists() or not has_ranks(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="pensieve-") as name:
        write_tokenizer(folder, Path(name))
        yield Path(name)


@contextmanager
def _folder_without_config(folder: Path, model_type: str) -> Iterator[Path]:
    """Yield a folder with links to the files of `folder`, and a config of the model's type alone.

    Transformers refuses numbers of another type than its own config classes have, such as 16.0 for 16, of
    which mlx-lm and the tokenizer need nothing.
    """
    with TemporaryDirectory(prefix="pensieve-") as name:
        for file in folder.iterdir():
            if file.is_file() and file.suffix in TOKENIZER_FILES and file.name != "config.json":
                (Path(name) / file.name).symlink_to(file.absolute())
        (Path(name) / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        yield Path(name)


def _check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer of a class that has not read vocab.json, as most classes without tokenizer.json."""
    if (folder / "tokenizer.json").exists() or not (folder / "vocab.json").exists():
        return
    if unknown := read_json(folder / "vocab.json").keys() - tokenizer.get_vocab().keys():
        kind = type(tokenizer._tokenizer).__name__
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: a {kind} does not read vocab.json and merges.txt"
            f" ({len(unknown):,} tokens are missing); a tokenizer.json is needed"
        )
