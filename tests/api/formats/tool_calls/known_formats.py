"""The formats that mlx-lm has parsers for, and texts that are special tokens of some models."""

import importlib

from pensieve.api.formats import harmony
from pensieve.api.formats.tool_calls.declared_formats import DECLARED
from pensieve.api.formats.tool_calls.harmony_calls import HARMONY_CALLS, parse_call
from pensieve.api.formats.tool_calls.minimax_m3 import MINIMAX_M3
from pensieve.api.formats.tool_calls.tool_format import ToolFormat

SPECIAL = (
    "<end>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_start|>",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<|open|>",
    "<|sep|>",
    "<|close|>",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
)


def tool_format(name: str) -> ToolFormat:
    """The format of one of mlx-lm's modules, with the module's tags; else a declared one."""
    if name == HARMONY_CALLS.module:
        return ToolFormat.of_parser(harmony.CALL_START, harmony.CALL, parse_call)
    if name == MINIMAX_M3.module:
        return next(form for form in DECLARED if form.syntax is MINIMAX_M3)
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    return ToolFormat.of_parser(module.tool_call_start, module.tool_call_end, module.parse_tool_call)
