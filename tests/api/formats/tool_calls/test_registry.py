"""Which syntax is found for the parser of a model's calls."""

import importlib
import json
from typing import Any

import pytest

from pensieve.api.formats.tool_calls.harmony_calls import HARMONY_CALLS, parse_call
from pensieve.api.formats.tool_calls.json_tools import JSON_TOOLS
from pensieve.api.formats.tool_calls.registry import SYNTAXES, UNKNOWN, find_syntax


@pytest.mark.parametrize("name", sorted(SYNTAXES.keys() - {"harmony_calls"}))
def test_a_format_is_named_after_the_module_of_its_parser(name: str) -> None:
    """Renamed in mlx-lm, a format would be read at its end only, and decoded freely."""
    parser = importlib.import_module(f"mlx_lm.tool_parsers.{name}").parse_tool_call
    assert find_syntax(parser) is SYNTAXES[name]


def test_harmonys_calls_are_found_by_their_parser() -> None:
    assert find_syntax(parse_call) is HARMONY_CALLS


def fails(text: str, _tools: Any) -> Any:
    raise RuntimeError(text)


def test_a_parser_that_is_not_known_is_tried_with_json() -> None:
    assert find_syntax(lambda text, _tools: json.loads(text)) is JSON_TOOLS
    assert find_syntax(lambda text, _tools: {"name": text, "arguments": {}}) is UNKNOWN
    assert find_syntax(fails) is UNKNOWN
