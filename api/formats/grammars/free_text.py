"""The rule for a text without quotes or escapes, up to a tag that ends it and that it cannot hold."""

from collections import abc

from .json_schema import Schema
from .lark import Lark, literal, pattern
from .schema_kinds import listed_values


def text_until(
    lark: Lark, schema: Schema, close: str, never: abc.Sequence[str] = (), without: abc.Sequence[str] = ()
) -> str:
    """Define the rule for a text that conforms to a schema, then the tag `close`; return the rule's body.

    never: other tags that the text cannot hold. without: regular expressions that the text must not match.
    """
    forbidden = [close.strip(), *never]
    values = listed_values(schema)
    if values is not None:
        texts = [
            text for text in values if isinstance(text, str) and not any(part in text for part in forbidden)
        ]
        return f"({' | '.join(map(literal, texts)) or literal('')}) {lark.tag(close)}"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    parts = [*(rf"/(?s:.*){pattern(part)}(?s:.*)/" for part in forbidden), *without]
    name = lark.new(f"/(?s:.{{{least},{most}}})/ & " + " & ".join(f"~{part}" for part in parts), "TEXT")
    if lark.has_special_tokens(close):
        return f"{name} {lark.tag(close)}"
    # Lazy, because the first tag ends the text: a greedy lexeme would continue to a later tag.
    return lark.new(lark.new(f"{name} {literal(close)}", "VALUE"), options="[lazy]")
