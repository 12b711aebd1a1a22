"""The rule for a text that stands as it is, up to the mark that ends it, which it cannot hold."""

from collections import abc
from typing import Any

from .lark import Lark, literal, pattern
from .schema_kinds import listed_values

Schema = dict[str, Any]


def text_until(
    lark: Lark, schema: Schema, close: str, never: abc.Sequence[str] = (), without: abc.Sequence[str] = ()
) -> str:
    """Define the rule for a text of a schema and the mark that ends it.

    never: what else the text cannot hold. without: regular expressions that match no text of the rule.
    """
    forbidden = [close.strip(), *never]
    values = listed_values(schema)
    if values is not None:
        texts = [
            text for text in values if isinstance(text, str) and not any(part in text for part in forbidden)
        ]
        return f"({' | '.join(map(literal, texts)) or literal('')}) {lark.mark(close)}"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    parts = [*(rf"/(?s:.*){pattern(part)}(?s:.*)/" for part in forbidden), *without]
    name = lark.new(f"/(?s:.{{{least},{most}}})/ & " + " & ".join(f"~{part}" for part in parts), "TEXT")
    if lark.is_marked(close):
        return f"{name} {lark.mark(close)}"
    # The first mark ends the text: a lexeme that is not lazy would run on.
    return lark.new(lark.new(f"{name} {literal(close)}", "VALUE"), options="[lazy]")
