"""Loads a model's tokenizer, with mlx-lm's knowledge of its tool calls and thoughts. Runs nothing on MLX."""

from typing import Any

from mlx_lm.tokenizer_utils import load

from .model_error import ModelError, first_line
from .model_info import ModelInfo


def load_tokenizer(info: ModelInfo) -> Any:
    """Load mlx_lm's TokenizerWrapper for a model. Raises ModelError, one line."""
    load_untyped: Any = load
    try:
        return load_untyped(
            info.path,
            # Without this setting, transformers asks on the terminal whether to run the model's code.
            {"trust_remote_code": False},
            eos_token_ids=sorted(info.eos_token_ids) or None,
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"the tokenizer in {info.path} cannot be loaded: {first_line(error)}") from error
