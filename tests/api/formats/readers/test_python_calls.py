"""Calls in Python's syntax: as Python reads them, and as models write them."""

import ast
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.formats.readers.python_calls import read_python_calls

SCALARS = st.one_of(st.text(), st.integers(-(10**30), 10**30), st.floats(-1e9, 1e9), st.booleans(), st.none())
VALUES = st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=8)


@settings(max_examples=30)
@given(arguments=st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), VALUES, max_size=3))
def test_what_python_writes_is_read_as_python_reads_it(arguments: dict[str, Any]) -> None:
    call = f"read({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    keywords = {key: ast.literal_eval(repr(value)) for key, value in arguments.items()}
    for text in (call, f"[{call}]", f"[ {call}, {call} ]\n"):
        assert read_python_calls(text) == [{"name": "read", "arguments": keywords}] * text.count("read(")


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("'a\nb\x00'", "a\nb\x00"),
        ("07", 7),
        ("{'a', 'b'}", ["a", "b"]),
        ("('a', 1)", ["a", 1]),
        ("true", True),
        ('{"a": null, 1: [True]}', {"a": None, "1": [True]}),
        ("'sed -n '1,5p' a'", "sed -n '1,5p' a"),
        (r"'\d\'\x41\u00e9\101\n'", "\\d'A\u00e9A\n"),
        ("'''it's \"so\"'''", 'it\'s "so"'),
        (r"'\UFFFFFFFF\U0001F600'", "\\UFFFFFFFF\U0001f600"),
        (r"'\ud83d\ude00 \ud83d'", "\U0001f600 \ufffd"),
        ("Rome, Italy", None),
        ("Rome 7", "Rome 7"),
        ("'a' b", None),
        ("{'a', 'b': 1}", None),
        ("[" * 10_000, None),
    ],
)
def test_what_models_write_is_read_as_it_is_meant(value: str, meaning: Any) -> None:
    """None stands for a call that cannot be read."""
    text = f"[read(first={value}, last=[])]"
    try:
        assert read_python_calls(text)[0]["arguments"] == {"first": meaning, "last": []}
    except (ValueError, RecursionError):
        assert meaning is None
