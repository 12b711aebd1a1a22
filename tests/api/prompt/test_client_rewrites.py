"""Which changes of a call leave its meaning, and which do not."""

import json
import random
from typing import Any

import pytest

from pensieve.api.prompt.client_rewrites import MAX_NAME_CHARS, folder_name, own_folders, same_arguments

from .rewriting_client import EDITS, ENVIRONMENT, REWRITES, TOOLS

SCHEMAS = {tool["name"]: tool["input_schema"] for tool in TOOLS}
FOLDERS = own_folders([ENVIRONMENT])


@pytest.mark.parametrize("name", REWRITES)
def test_a_call_that_the_client_has_rewritten_means_the_same(name: str) -> None:
    tool, made, sent = REWRITES[name]
    assert same_arguments(tool, made, sent, SCHEMAS[tool], FOLDERS)


@pytest.mark.parametrize("name", EDITS)
def test_a_call_that_was_edited_does_not_mean_the_same(name: str) -> None:
    tool, made, sent = EDITS[name]
    assert not same_arguments(tool, made, sent, SCHEMAS[tool], FOLDERS)


@pytest.mark.parametrize("name", ["the folder is taken off", "white space at line ends is taken off"])
def test_another_tool_s_call_is_not_rewritten(name: str) -> None:
    tool, made, sent = REWRITES[name]
    assert not same_arguments("mcp__own__tool", made, sent, SCHEMAS[tool], FOLDERS)


def test_a_long_run_of_blanks_is_looked_at_once() -> None:
    """It took hours for a megabyte, and nothing else ran meanwhile."""
    made = {"file_path": "/a", "content": f"{' ' * 1_000_000}x \n"}
    sent = {"file_path": "/a", "content": f"{' ' * 1_000_000}x\n"}
    assert same_arguments("Write", made, sent, SCHEMAS["Write"], FOLDERS)


def test_without_the_tool_nothing_may_be_added_or_dropped() -> None:
    assert same_arguments("T", {"a": "1", "b": [{"c": 1.0}]}, {"b": [{"c": 1}], "a": 1}, {})
    assert not same_arguments("T", {"a": 1}, {"a": 1, "b": False}, {})
    assert not same_arguments("T", {"a": 1, "b": False}, {"a": 1}, {})


def test_values_in_quotes_are_the_same_at_any_depth_and_other_values_never() -> None:
    rng = random.Random(1)
    for _ in range(300):
        made = draw_value(rng, 3)
        quoted = quote_some(made, rng)
        assert same_arguments("T", {"a": quoted}, {"a": made}, {})
        other = draw_value(rng, 3)
        assert same_arguments("T", {"a": made}, {"a": other}, {}) == (json.dumps(made) == json.dumps(other))


def draw_value(rng: random.Random, depth: int) -> Any:
    simple = [True, False, None, 1, 0, 2.5, "word", ""]
    if not depth or rng.random() < 0.5:
        return rng.choice(simple)
    values = [draw_value(rng, depth - 1) for _ in range(rng.randint(0, 2))]
    return values if rng.random() < 0.5 else dict(zip("xy", values, strict=False))


def quote_some(value: Any, rng: random.Random) -> Any:
    """Write some values that are no strings as the JSON text of them."""
    if value is not None and not isinstance(value, str) and rng.random() < 0.3:
        return json.dumps(value)
    if isinstance(value, list):
        return [quote_some(entry, rng) for entry in value]
    if isinstance(value, dict):
        return {key: quote_some(entry, rng) for key, entry in value.items()}
    return value


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (ENVIRONMENT, "p"),
        ("CWD: /home/u/a project/", "a project"),
        ("Working directory: C:\\Users\\u\\p.", "p"),
        ("CWD: /", ""),
        (f"CWD: /a/\x1b[2J{'b' * 100}", "[2J" + "b" * (MAX_NAME_CHARS - 3)),
        ("nothing of the kind", ""),
    ],
)
def test_of_a_folder_s_path_the_last_name_is_shown(text: str, name: str) -> None:
    assert folder_name(["Be brief.", text]) == name
