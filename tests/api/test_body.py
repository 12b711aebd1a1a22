"""How many values a body may have, whatever its texts hold."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieve.api import bounded_json as bounds
from pensieve.api.body import parse_body
from pensieve.api.bounded_json import without_plain_escapes
from pensieve.api.errors import InvalidRequest
from pensieve.api.schema import MessagesRequest

BODY = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
TEXTS = st.text(alphabet='a",[{}]\\\n\u00e9', max_size=12)
VALUES = st.recursive(
    TEXTS | st.integers(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=30,
)


def count(value: Any) -> int:
    """Count the lists, the objects, and all of their values but the first ones."""
    if not isinstance(value, list | dict):
        return 0
    children = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(children) - 1) + sum(map(count, children))


@given(value=VALUES, is_ascii=st.booleans())
def test_values_are_counted_and_what_looks_like_them_in_texts_is_not(value: Any, is_ascii: bool) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()
    number = count(value)
    assert not bounds._has_more_values(raw, number)
    assert number == 0 or bounds._has_more_values(raw, number - 1)


ODD_ESCAPES = ["", "\\\\u0041", "\\ud83d\\ude00", "\\u0000\\u0022\\u005c", "\\u00e4" * 6000]


@given(text=st.text() | TEXTS, odd=st.sampled_from(ODD_ESCAPES))
def test_taking_out_escapes_changes_no_value(text: str, odd: str) -> None:
    raw = b'["' + odd.encode() + json.dumps(text).encode()[1:-1] + b'"]'
    plain = without_plain_escapes(raw)
    assert json.loads(plain) == json.loads(raw)
    assert b"\\u00e" not in plain


@pytest.mark.parametrize("raw", [b'"', b'["', b'[[,"\\', b"", b'"\\"', b"," * 9])
def test_what_is_no_json_is_counted_to_its_end(raw: bytes) -> None:
    assert bounds._has_more_values(raw, 8) == (raw == b"," * 9)


FILLINGS = {"numbers": b"1", "lists": b"[]", "objects": b'{"a":1}', "words": b'"a"'}


@pytest.mark.parametrize("filling", FILLINGS.values(), ids=FILLINGS)
def test_a_body_that_would_hold_up_the_event_loop_is_refused_unread(filling: bytes) -> None:
    """24 MB in a field that is ignored stopped every stream for 1.7 s, empty lists for 3 s."""
    raw = b'{"junk":[' + (filling + b",") * 300_001 + b"0]}"
    with pytest.raises(InvalidRequest, match="more than 300000 values"):
        parse_body(raw, MessagesRequest)


@pytest.mark.parametrize("escape", ["\\n", "\\\\", "\\u001b", "\\ud800"])
def test_more_escapes_than_may_hold_up_the_event_loop_are_refused(
    escape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 million would stop every stream for 0.2 s. Claude Code shortens its prompt on these words."""
    monkeypatch.setattr(bounds, "MAX_ESCAPES", 1000)
    monkeypatch.setattr(bounds, "MAX_NUMBERS", 100)
    raw = json.dumps(BODY)
    parse_body(raw.replace("Hi", escape * 1000).encode(), MessagesRequest)
    with pytest.raises(
        InvalidRequest, match="prompt is too long: the body has more than 1000 escapes"
    ) as error:
        parse_body(raw.replace("Hi", escape * 1001).encode(), MessagesRequest)
    assert error.value.reason == "prompt_too_long"


@pytest.mark.parametrize(("escape", "meant"), [("\\ud800", "\ufffd"), ("\\ud83d\\ude00", "\U0001f600")])
def test_surrogates_in_long_rows_are_read(escape: str, meant: str) -> None:
    raw = json.dumps(BODY).replace("Hi", rf"\\{escape * 12_001}\ud801\n").encode()
    content: Any = parse_body(raw, MessagesRequest).messages[0].content
    assert content[0].text == "\\" + 12_001 * meant + "\ufffd\n"


def test_a_long_text_full_of_commas_and_brackets_is_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_VALUES", 100)
    message = {"role": "user", "content": '{"a": [1, 2, {"b": "\\n"}]}' * 100}
    raw = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": [message]}).encode()
    assert parse_body(raw, MessagesRequest).messages[0].role == "user"
