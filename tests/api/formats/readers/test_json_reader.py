"""The reader of JSON that is still being written: what it passes on is always the beginning of valid JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.formats.readers.json_reader import JsonError, JsonReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def read(text: str, size: int) -> tuple[str, JsonReader]:
    """Read a text, `size` characters at a time; return what was passed on."""
    reader = JsonReader()
    parts = []
    for start in range(0, len(text), size):
        parts += [token.written for token in reader.read(text[start : start + size])]
    return "".join(parts), reader


def is_beginning(text: str) -> bool:
    """Whether some ending makes JSON of a text."""
    reader = JsonReader()
    try:
        list(reader.read(text))
    except JsonError:
        return False
    return True


@settings(deadline=None)
@given(VALUES, st.integers(1, 9), st.booleans(), st.sampled_from([None, 1]))
def test_a_value_comes_out_as_it_went_in(value: Any, size: int, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    written, reader = read(f" {text} ,", size)
    assert json.loads(written) == value
    assert (reader.is_done, reader.is_repaired) == (True, False)
    assert reader.unread.strip() == ","


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:\\ntrue0-1.e \n', max_size=40), st.integers(1, 5))
def test_what_is_passed_on_begins_json_whatever_comes(text: str, size: int) -> None:
    reader = JsonReader()
    written = ""
    try:
        for start in range(0, len(text), size):
            for token in reader.read(text[start : start + size]):
                written += token.written
    except JsonError:
        assert not reader.is_done
    assert is_beginning(written)
    if reader.is_done:
        json.loads(written)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a\nb": "c\td"}', '{"a\\nb": "c\\td"}'),
        ('{"a": [1, 2, ], }', '{"a": [1, 2]}'),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 99])
def test_small_faults_are_repaired_on_the_way(text: str, written: str, size: int) -> None:
    result, reader = read(text, size)
    assert (result, reader.is_done, reader.is_repaired) == (written, True, True)


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize(
    ("text", "value"),
    [("\\ud800", "?"), ("\\udc00", "?"), ("\\ud83d\\ude00", "😀"), ("\\ud83d\\u0041", "?A")],
)
def test_half_a_character_is_replaced(text: str, value: str, size: int) -> None:
    assert json.loads(read(f'"{text}"', size)[0]) == value


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": ls}', "{'a': 1}", "{a: 1}", '{"a" 1}', '{"a": 1 "b": 2}', "[1}", "]", "{,}", '{"a":,}'),
        *('"\\q"', '"\\u12x4"', "NaN", "1e999", "-", "01", "[" * 300, "nul", "[1 2]", '["a": 1]', "9" * 400),
    ],
)
@pytest.mark.parametrize("size", [1, 99])
def test_what_is_no_json_is_refused_and_the_rest_is_kept(text: str, size: int) -> None:
    reader = JsonReader()
    kept = ""
    place = 0
    with pytest.raises(JsonError):  # noqa: PT012  (as far as it goes)
        for place in range(0, len(text) + 1, size):
            for token in reader.read(f"{text} "[place : place + size]):
                kept += token.written
    kept += reader.unread + f"{text} "[place + size :]
    assert kept.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "closing"), [('{"a": {"b": [1', "1]}}"), ('{"a": "x"', "}"), ("[tru", None), ('{"a": 1,', None)]
)
def test_missing_brackets_are_put_in_at_the_end_and_no_more(text: str, closing: str | None) -> None:
    _, reader = read(text, 3)
    if closing is None:
        with pytest.raises(JsonError):
            list(reader.close())
    else:
        assert "".join(token.written for token in reader.close()) == closing
        assert reader.is_repaired


def test_a_fork_reads_on_by_itself() -> None:
    _, reader = read('{"key": "va', 99)
    other = reader.fork()
    assert "".join(token.written for token in other.read('lue"}')) == 'lue"}'
    assert "".join(token.written for token in reader.read('in", "b": 1}')) == 'in", "b": 1}'


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_a_word_without_end_is_given_up(size: int) -> None:
    """With each chunk it was read again from its beginning."""
    with pytest.raises(JsonError, match="no value"):
        read('{"a": ' + "1" * 4000, size)
    long = "[0." + "1" * 900 + "]"
    assert read(long, size)[0] == long
