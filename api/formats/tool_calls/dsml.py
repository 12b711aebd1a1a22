"""DeepSeek's calls since V3.2, in tags of its own: parameters that say whether they are texts."""

from functools import partial

from ..grammars.parameter_syntax import ParameterSyntax
from ..readers.parameter_calls import ParameterCalls, ParameterPatterns
from .call_syntax import CallSyntax

MARK = "｜DSML｜"  # noqa: RUF001  (DeepSeek's)
PATTERNS = ParameterPatterns(
    head=rf'<{MARK}invoke\s+name="(?P<name>[^"<>]+)"\s*(?P<is_whole>/)?>',
    key=rf'<{MARK}parameter\s+name="(?P<key>[^"<>]+)"(?:\s+string="(?P<is_text>true|false)")?\s*>',
    close=f"</{MARK}parameter>",
    end=f"</{MARK}invoke>",
)


def dsml_syntax(body_end: str) -> CallSyntax:
    """Describe the format. body_end: the end tag of the body, whose name differs from model to model."""
    syntax = ParameterSyntax(
        head=f'<{MARK}invoke name="NAME">\n',
        key=f'<{MARK}parameter name="KEY" string="KIND">',
        close=f"</{MARK}parameter>\n",
        end=f"</{MARK}invoke>",
        repeats=True,
        body_end=body_end,
    )
    return CallSyntax("dsml", partial(ParameterCalls, PATTERNS), syntax.define_rule)
