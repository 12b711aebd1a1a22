"""A tool that a grammar lets the model call."""

from dataclasses import dataclass

from .json_schema import Schema


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool's name and the schema of its arguments, rewritten for the grammar compiler."""

    name: str
    schema: Schema
