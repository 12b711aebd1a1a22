"""The formats in which a model may write calls. Which one it has, its template's own call shows."""

from ...protocols import Tokenizer
from .. import harmony
from . import harmony_calls
from .declared_formats import BEFORE_MLX_LM, DECLARED
from .tool_format import ToolFormat


def native_formats(tokenizer: Tokenizer) -> list[ToolFormat]:
    """List the formats to try on a template's call: the one of mlx-lm's parser early, if any."""
    if harmony.is_harmony(tokenizer):
        return [ToolFormat.of_parser(harmony.CALL_START, harmony.CALL, harmony_calls.parse_call)]
    start, end, parser = tokenizer.tool_call_start, tokenizer.tool_call_end, tokenizer.tool_parser
    known = [ToolFormat.of_parser(start, end or "", parser)] if start and parser is not None else []
    return [*BEFORE_MLX_LM, *known, *DECLARED]
