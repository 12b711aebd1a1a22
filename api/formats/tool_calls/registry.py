"""The formats of tool calls, by the mlx-lm module that parses each. A new one is a file and a line here."""

import json

from ...protocols import ToolParser
from ..readers.whole_calls import WholeCalls
from .call_syntax import CallSyntax
from .function_gemma import FUNCTION_GEMMA
from .gemma4 import GEMMA4
from .glm47 import GLM47
from .harmony_calls import HARMONY_CALLS
from .json_tools import JSON_TOOLS
from .kimi_k2 import KIMI_K2
from .kimi_k3 import KIMI_K3
from .longcat import LONGCAT
from .minicpm5 import MINICPM5
from .minimax_m2 import MINIMAX_M2
from .mistral import MISTRAL
from .muse_spark import MUSE_SPARK
from .pythonic import PYTHONIC
from .qwen3_coder import QWEN3_CODER

SYNTAXES = {
    syntax.module: syntax
    for syntax in (
        JSON_TOOLS,
        MISTRAL,
        HARMONY_CALLS,
        KIMI_K2,
        KIMI_K3,
        QWEN3_CODER,
        GLM47,  # Laguna's parser is the same function
        LONGCAT,
        MINIMAX_M2,
        MINICPM5,
        MUSE_SPARK,
        PYTHONIC,
        GEMMA4,
        FUNCTION_GEMMA,
    )
}

UNKNOWN = CallSyntax("", WholeCalls)  # read by mlx-lm's parser alone, and not constrained


def find_syntax(parser: ToolParser) -> CallSyntax:
    """Return the syntax that a parser reads: that of the parser's module, else JSON_TOOLS or UNKNOWN."""
    module = parser.__module__.rpartition(".")[2]
    return SYNTAXES.get(module) or (JSON_TOOLS if reads_json(parser) else UNKNOWN)


def reads_json(parser: ToolParser) -> bool:
    """Whether a parser returns a call in plain JSON unchanged, as a trial shows."""
    probe = {"name": "probe", "arguments": {"key": [1, "value"]}}
    try:
        return bool(parser(json.dumps(probe), []) == probe)
    except Exception:
        return False
