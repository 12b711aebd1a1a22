"""Statements that change a list of a template's namespace, and what they become."""

import jinja2
import jinja2.sandbox
import pytest

from pensieve.api.prompt.list_statements import without_changes

HEAD = "{%- set ns = namespace(ids=['a', 'b'], n=0) -%}{%- for i in (1, 2) -%}"
TAIL = "{%- endfor -%}{{ ns.ids }}"


@pytest.mark.parametrize(
    ("statement", "result"),
    [
        ("{%- set _ = ns.ids.append('c%d' % i) -%}", "['a', 'b', 'c1', 'c2']"),
        ("{% set _ = ns.ids.extend([i, (i)]) %}", "['a', 'b', 1, 1, 2, 2]"),
        ("{%- set first = ns.ids.pop(0) -%}{{ first }}", "ab[]"),
        ("{%- set last=ns.ids.pop() -%}{{ last }}", "ba[]"),
    ],
)
def test_a_list_in_a_namespace_is_changed_as_in_python(statement: str, result: str) -> None:
    strict = jinja2.sandbox.ImmutableSandboxedEnvironment()
    text = HEAD + statement + TAIL
    with pytest.raises(jinja2.exceptions.SecurityError):
        strict.from_string(text).render()
    assert strict.from_string(without_changes(text)).render() == result


@pytest.mark.parametrize("text", ["{{ ids.append(1) }}", "ns.ids.append(1)", "{% set x = ns.ids.pop(1) %}"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert without_changes(text) == text
