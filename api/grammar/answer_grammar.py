"""The grammar of an answer: tool calls in the model's own format, or a value that conforms to a schema."""

import re
from collections import abc

from llguidance.gbnf_to_lark import any_to_lark

from ..answer_options import TextRule
from ..formats.grammars.callable_tool import CallableTool
from ..formats.grammars.json_schema import SchemaError
from ..formats.grammars.lark import OPTIONS, Lark, literal
from ..formats.grammars.properties import PUNCTUATION
from ..formats.harmony import END, NEXT
from ..formats.tool_calls.tool_format import ToolFormat

TEXT = r"/(?s:.*)/"
MAX_MARKS = 3  # before an answer, such as those of a message's beginning


def call_grammar(
    lark: Lark, tool_format: ToolFormat, tools: abc.Sequence[CallableTool], marks: abc.Sequence[str] = ()
) -> str:
    """Write the grammar of a call, and of free text after it where the format ends calls with a tag.

    marks: silent ones, which may come before the call.
    """
    call = tool_format.define_rule(lark, tools)
    lark.rules(PUNCTUATION | {"TEXT": TEXT})
    lark.rule(
        "start", f"{_any_of(lark, marks) * MAX_MARKS}SPACE {call}{' TEXT' if tool_format.may_go_on else ''}"
    )
    return str(lark)


def message_grammar(
    lark: Lark, heads: abc.Sequence[str], tool_format: ToolFormat | None, tools: abc.Sequence[CallableTool]
) -> str:
    """Write the grammar of the next message of an answer in messages: of a header, or of a whole call.

    heads: the headers of messages that are no calls.
    """
    choices = [lark.tag(head) for head in heads]
    choices += [tool_format.define_rule(lark, tools)] if tool_format and tools else []
    lark.rules(PUNCTUATION)
    lark.rule("start", f"{lark.tag(END)}? ({lark.tag(NEXT)})? ({' | '.join(choices)})")
    return str(lark)


def _any_of(lark: Lark, marks: abc.Sequence[str]) -> str:
    """Write that one of some marks may come next, after space; nothing where there are none."""
    return f"(SPACE ({' | '.join(map(lark.tag, marks))}))? " if marks else ""


def rule_grammar(
    lark: Lark, rule: TextRule, tool_format: ToolFormat | None, tools: abc.Sequence[CallableTool]
) -> str:
    """Write the grammar of an answer whose text a rule describes, or that is calls without other text.

    Raises SchemaError for a grammar that is neither GBNF nor Lark, or that comes with tools.
    """
    if rule.kind == "grammar":
        if tools:
            raise SchemaError("grammar: cannot be combined with tools")
        return _client_grammar(rule.texts[0])
    if rule.kind == "choice":
        value = lark.one_of([literal(text) for text in rule.texts if text])
    else:
        value = lark.new(f"/{_between_slashes(rule.texts[0])}/")
    lark.rules(PUNCTUATION)
    if tool_format is None:
        lark.rule("start", value)
    else:
        call = tool_format.define_rule(lark, tools)
        lark.rule("start", f"{value} | SPACE {call} (SPACE {call})*")
    return str(lark)


def _client_grammar(text: str) -> str:
    """Return a client's grammar, in GBNF or Lark, as Lark with this server's options."""
    try:
        lark = any_to_lark(text)
    except Exception as error:  # the translator raises what its parser happens to run into
        raise SchemaError(f"grammar: {' '.join(str(error).split())[:200]}") from error
    rules = "\n".join(line for line in lark.splitlines() if not line.lstrip().startswith("%llguidance"))
    return f"{OPTIONS}\n{rules}"


def _between_slashes(regex: str) -> str:
    """Escape a regular expression's own slashes and line breaks."""
    return re.sub(r"\\.|/|\n", lambda found: {"/": r"\/", "\n": r"\n"}.get(found[0], found[0]), regex)


def value_grammar(
    lark: Lark,
    schema: str,
    tool_format: ToolFormat | None,
    tools: abc.Sequence[CallableTool],
    marks: abc.Sequence[str] = (),
) -> str:
    """Write the grammar of an answer that is either one value or calls, without other text.

    marks: silent ones, which may come around the value or before the calls.
    """
    before, after = _any_of(lark, marks) * MAX_MARKS, _any_of(lark, marks)
    value = f"{lark.json(schema)} {after}"
    lark.rules(PUNCTUATION)
    if tool_format is None:
        lark.rule("start", f"{before}SPACE {value}")
    else:
        call = tool_format.define_rule(lark, tools)
        lark.rule("start", f"{before}SPACE ({value} | {call} (SPACE {call})*)")
    return str(lark)
