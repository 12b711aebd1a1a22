"""The fields by which clients say what an answer must look like, in the words of many servers.

OpenAI's `response_format`, Anthropic's older `output_format`, vLLM's `guided_…` and `structured_outputs`,
SGLang's `regex` and `ebnf`, llama.cpp's `json_schema` and `grammar`. `output_config.format` is a field of
the body's own type.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .bounded_json import BadJson, bounded_json
from .tidy_schema import tidy_schema
from .wire_base import Wire

MAX_RULE_CHARS = 64 * 1024
MAX_WORDS = 1000

Json = Any

ANY_OBJECT: dict[str, Json] = {"type": "object"}


class OutputFormat(Wire):
    """What the whole answer must be.

    rule: a regular expression, or a grammar in GBNF or Lark. words: the answer is one of them.
    """

    type: Literal["json_schema", "regex", "choice", "grammar"]
    json_schema: Annotated[dict[str, Any], BeforeValidator(tidy_schema)] = Field(default={}, alias="schema")
    rule: str = Field(default="", max_length=MAX_RULE_CHARS)
    words: list[str] = Field(default=[], max_length=MAX_WORDS)


def schema_form(schema: Json) -> Json:
    """Return a JSON schema as an object: of an object, of its JSON text, of nothing for any object."""
    if isinstance(schema, str):
        try:
            schema = bounded_json(schema.encode())
        except BadJson as error:
            raise ValueError(f"the JSON schema {error}") from None
    return ANY_OBJECT if schema is None or schema is True else schema


def response_format_form(wanted: Json) -> Json:
    """Return OpenAI's `response_format`, in the forms of several servers, as an OutputFormat."""
    if isinstance(wanted, str):
        wanted = {"type": wanted}
    if not isinstance(wanted, dict):
        return wanted
    kind = wanted.get("type")
    match kind:
        case "text":
            return None
        case "json_object" | "json":
            return {"type": "json_schema", "schema": schema_form(wanted.get("schema") or None)}
        case "json_schema":
            inner = wanted.get("json_schema")
            inner = inner if isinstance(inner, dict) else wanted
            # llama.cpp's clients write the schema itself there.
            is_schema = inner is not wanted and not inner.keys() & {"schema", "name", "strict"} and inner
            return {"type": kind, "schema": schema_form(inner if is_schema else inner.get("schema"))}
        case "regex" | "grammar":
            rule = wanted.get(kind) or wanted.get("pattern") or wanted.get("value")
            return {"type": kind, "rule": rule}
    return wanted


RULES = {
    # Names of fields, each with the type of format that it gives.
    "guided_json": "json_schema",
    "json_schema": "json_schema",
    "guided_regex": "regex",
    "regex": "regex",
    "guided_choice": "choice",
    "choice": "choice",
    "guided_grammar": "grammar",
    "grammar": "grammar",
    "ebnf": "grammar",
    "json": "json_schema",
}
CONTENT_KEYS = {"json_schema": "schema", "choice": "words", "regex": "rule", "grammar": "rule"}


def guided_format(body: dict[str, Json]) -> Json:
    """Return what a body's fields ask for as an OutputFormat's fields; None where they ask for nothing.

    Raises ValueError where two fields ask for it.
    """
    nested = body.get("structured_outputs")
    fields = {name: value for name, value in body.items() if name in RULES and name not in ("json", "choice")}
    if isinstance(nested, dict):
        fields |= {name: value for name, value in nested.items() if name in RULES}
        if nested.get("json_object"):
            fields["json"] = None
    found: list[Json] = []
    for name, value in fields.items():
        kind = RULES[name]
        if value not in (None, "", []) or name == "json":
            content = schema_form(value) if kind == "json_schema" else value
            found.append({"type": kind, CONTENT_KEYS[kind]: content})
    formats = [response_format_form(body.get("response_format")), body.get("output_format")]
    found += [wanted for wanted in formats if wanted is not None]
    if len(found) > 1:
        raise ValueError("response_format: two fields say what the answer must look like")
    return found[0] if found else None


class GuidedFields(Wire):
    """What the whole answer must be; None leaves it free."""

    output_format: OutputFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, body: Json) -> Json:
        return body | {"output_format": guided_format(body)} if isinstance(body, dict) else body
