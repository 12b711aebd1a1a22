"""The cases of llama.cpp's chat tests before it had a parser per template, read out of their source.

What they read more leniently than the later tests do: calls in blocks of Markdown, in other tags, or bare.
"""

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from .cpp_source import Source
from .llama_cases import NONE, RENDERED_TAGS, assistant_message, new_value
from .reference_cases import Case, tools_of_calls
from .templates_on_disk import data_folder

THINKING = {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "Qwen-Qwen3-0.6B",
}
"""Templates of the tests that know no thoughts, and one with the same calls that does."""

OPENED = {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "Qwen-QwQ-32B",
    "llama-cpp-deepseek-r1": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
}
"""The same for thoughts that the prompt has opened."""

DEFAULTS: list[Any] = ["", NONE, False, False, True]
"""Of the fields of the tests' syntax."""

TOOLS: list[tuple[str, dict[str, Any]]] = [("special_function", {"arg1": 1}), ("python", {"code": ""})]
"""The tests' tools, each as a call."""


class _Template:
    """Stands for the tests' object of a template."""

    def __init__(self, path: str) -> None:
        self.name = PurePath(path).stem

    def get(self) -> "_Template":
        return self


class _Cases:
    """Stands for the tests' functions: each notes the cases that it is called with."""

    def __init__(self) -> None:
        self.found: list[Case] = []
        self._template = ""
        self._parsed: tuple[str, bool, list[Any]] | None = None

    def read_templates(self, path: str) -> _Template:
        self._template = PurePath(path).stem
        return _Template(path)

    def common_chat_parse(self, answer: str, is_partial: bool, syntax: list[Any]) -> str:
        self._parsed = answer, is_partial, syntax
        return answer

    def assert_equals(self, expected: Any, _found: Any) -> None:
        if self._parsed is not None and isinstance(expected, dict):
            self._add(expected, *self._parsed)
        self._parsed = None

    def test_templates(self, template: _Template, *rest: Any) -> None:
        message, answer = rest[1], rest[3]
        reasoning = rest[6] if len(rest) > 6 else NONE
        self._template = template.name
        self._add({**message, "reasoning_content": ""}, answer, False, ["", reasoning])

    def _add(self, expected: dict[str, Any], answer: str, is_partial: bool, syntax: list[Any]) -> None:
        form, reasoning, in_text, is_open, reads_calls = syntax + DEFAULTS[len(syntax) :]
        template = self._template
        thinks = reasoning != NONE
        if is_open:
            template = OPENED.get(template, template)
        elif thinks:
            template = THINKING.get(template, template)
        calls = tuple((name, arguments) for name, arguments, *_ in expected["tool_calls"])
        self.found.append(
            Case(
                source="llama.cpp, older",
                template=template,
                answer=answer,
                text=expected["content"],
                thoughts=expected["reasoning_content"],
                calls=calls,
                tools=tools_of_calls([*TOOLS, *((name, {}) for name, _ in calls)]),
                thinks=thinks,
                is_partial=is_partial,
                set_aside=_set_aside(expected, answer, form, in_text or not reads_calls),
            )
        )


def _set_aside(expected: dict[str, Any], answer: str, form: str, is_option: bool) -> str:
    if form.endswith("_GENERIC") or answer.startswith('{\n  "tool_calls"'):
        return "a format that llama.cpp's prompt asks for, and no template here"
    keeps_tags = any(tag in expected["content"] for tag in RENDERED_TAGS)
    if is_option or keeps_tags:
        return "thoughts or calls left in the text, which is no option here"
    return ""


def old_llama_cases() -> list[Case]:
    """List the cases; none where the data is not there."""
    path = data_folder() / "llama.cpp-0.3.16" / "test-chat.cpp"
    if not path.exists():
        return []
    cases = _Cases()
    helpers: dict[str, Callable[..., Any]] = {
        "read_templates": cases.read_templates,
        "common_chat_parse": cases.common_chat_parse,
        "assert_equals": cases.assert_equals,
        "assert_msg_equals": cases.assert_equals,
        "test_templates": cases.test_templates,
        "simple_assist_msg": assistant_message,
    }
    source = Source(path.read_text(encoding="utf-8"), helpers, new_value)
    source.call("test_template_output_parsers")
    return cases.found
