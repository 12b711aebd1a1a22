"""Formats that mlx-lm has no parser for, each as its tags and the form of a call between them.

The order matters where one format's call reads as another's: a format without tags comes last.
Sources: the models' chat templates, and the tests of llama.cpp's, vLLM's and SGLang's parsers.
"""

import json
from typing import Any

from .call_syntax import CallSyntax
from .dsml import MARK, dsml_syntax
from .header_syntax import header_syntax
from .hy3 import hy3_syntax
from .json_tools import JSON_TOOLS, JsonForm
from .minimax_m3 import MINIMAX_M3
from .muse_spark import HEAD, MUSE_GLIMMER
from .seed_oss import SEED_OSS
from .tool_format import ToolFormat


def read_json(text: str, _tools: Any) -> Any:
    """Read a body that has no header as JSON. Raises ValueError."""
    return json.loads(text)


def declared(syntax: CallSyntax, start: str, end: str = "", heads: tuple[str, ...] = ("",)) -> ToolFormat:
    """Declare a format."""
    return ToolFormat(start, end, read_json, syntax, heads)


COHERE = JsonForm(name_key="tool_name", arguments_key="parameters", is_list=True, separator="SPACE")
KEYED = JsonForm(is_keyed=True, is_list=True)
LIST = JsonForm(is_list=True)
LINES = JsonForm(is_list=True, separator="SPACE")
LLAMA_HEADS = (
    '{"name": "NAME"',
    '{"name":"NAME"',
    '{ "name": "NAME"',
    '{\n  "name": "NAME"',
    '{\n    "name": "NAME"',
    '{\n        "name": "NAME"',
    '{"type": "function", "name": "NAME"',
    '{"type":"function","name":"NAME"',
)
LLAMA = JsonForm("name", "parameters", "arguments", separator="(SEMICOLON | SPACE)", heads=LLAMA_HEADS)
SOLAR = "<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>ARGS<|tool_call:end|>"
DEEPSEEK = "<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGS<｜tool▁call▁end｜>"  # noqa: RUF001  (V3.1)
DEEPSEEK_R1 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGS```<｜tool▁call▁end｜>"  # noqa: RUF001
DEEPSEEK_TAGS = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # noqa: RUF001

BEFORE_MLX_LM = (declared(MUSE_GLIMMER, " to=", "</atem:function_calls>", (HEAD,)),)
"""Formats that tell more of a call than those of mlx-lm's parsers, which would read it too."""

DECLARED = (
    declared(COHERE.syntax("cohere"), "<|START_ACTION|>", "<|END_ACTION|>"),
    declared(COHERE.syntax("command_r"), "Action:\n```json\n", "```"),  # Command R+
    declared(KEYED.syntax("apertus"), "<|tools_prefix|>", "<|tools_suffix|>"),
    declared(LINES.syntax("tool_calls"), "<tool_calls>", "</tool_calls>"),  # Apriel, Hunyuan, MiniMax M1
    declared(LIST.syntax("phi4"), "<|tool_call|>", "<|/tool_call|>"),
    declared(LIST.syntax("granite"), "<|tool_call|>"),
    declared(LIST.syntax("functools"), "functools", heads=("[",)),  # FireFunction, Phi-4 mini
    declared(header_syntax("solar", SOLAR), "<|tool_calls|>", "<|calls|>"),
    declared(header_syntax("functionary", "NAME>ARGS", between=None), "<function=", "</function>"),
    declared(header_syntax("functionary", "NAME\nARGS", between=">>>"), ">>>", heads=("NAME\n",)),
    declared(hy3_syntax(":opensource"), "<tool_calls:opensource>", "</tool_calls:opensource>"),
    declared(hy3_syntax(""), "<tool_calls>", "</tool_calls>"),
    declared(header_syntax("deepseek_r1", DEEPSEEK_R1), *DEEPSEEK_TAGS),  # and V3
    declared(header_syntax("deepseek", DEEPSEEK), *DEEPSEEK_TAGS),
    *(
        declared(dsml_syntax(f"</{MARK}{tag}>"), f"<{MARK}{tag}>", f"</{MARK}{tag}>")
        for tag in ("function_calls", "tool_calls")
    ),
    declared(MINIMAX_M3, "]<]minimax[>[<tool_call>", "]<]minimax[>[</tool_call>"),
    declared(SEED_OSS, "<seed:tool_call>", "</seed:tool_call>"),
    declared(LIST.syntax("nemotron"), "<TOOLCALL>", "</TOOLCALL>"),
    declared(JSON_TOOLS, "<|function_call|>"),  # GigaChat 3.1
    declared(JSON_TOOLS, "<|message_sep|>\n\nfunction call<|role_sep|>\n"),  # GigaChat 3
    declared(JSON_TOOLS, "<tool_call>", "</tool_call>"),
    declared(LLAMA.syntax("llama3"), "", heads=LLAMA_HEADS),
)
