"""The grammar of calls in which the parts of lists and objects are elements, as parameters are."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .json_schema import Schema
from .lark import Lark
from .parameter_syntax import ParameterSyntax
from .properties import any_order, is_property_list, property_schema
from .schema_kinds import KINDS, flat_branches, possible_kinds

MAX_DEPTH = 4  # of elements
LIST_KEYS = frozenset({"type", "items", "minItems", "maxItems", "$schema", "$defs", "definitions"})


@dataclass(frozen=True)
class ElementSyntax(ParameterSyntax):
    """How a format writes a call. A list or an object may also be JSON, which the reader of such calls takes.

    mark: stands in every tag, and so in no value. item: names the elements of a list.
    depth: of the values in elements.
    """

    mark: str = ""
    item: str = "item"
    depth: int = 0

    @property
    def _not_in_values(self) -> list[str]:
        """The mark of all tags."""
        return [self.mark]

    def _others(self, lark: Lark, close: str, schema: Schema) -> list[str]:
        """Write the forms of a value that is no text, up to its end tag.

        Where a text may stand, and not any value, elements are read as a text.
        """
        forms = super()._others(lark, close, schema)
        kinds = possible_kinds(schema)
        if self.depth < MAX_DEPTH and ("string" not in kinds or kinds == KINDS):
            forms += replace(self, depth=self.depth + 1)._elements(lark, close, schema)
        return forms

    def _elements(self, lark: Lark, close: str, schema: Schema) -> Iterator[str]:
        """Write lists and objects as elements, up to the end tag."""
        end = lark.tag(close.strip())
        for part in flat_branches(schema):
            kinds, items = possible_kinds(part), part.get("items", {})
            if "array" in kinds and part.keys() <= LIST_KEYS and isinstance(items, dict):
                item = self._parameter(lark, self.item, property_schema(part, items))
                least, most = part.get("minItems", 0), part.get("maxItems", "")
                yield f"SPACE ({item}){{{least},{most}}} {end}"
            if "object" in kinds and is_property_list(part):
                yield f"SPACE {any_order(lark, part, self._parameter, separator='', end=end)}"
