"""The cases of llama.cpp's chat tests, read out of their source."""

import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from .cpp_source import Source
from .reference_cases import BAD_NAME, TOOL_NAME, Case
from .templates_on_disk import data_folder

NONE = "COMMON_REASONING_FORMAT_NONE"
RENDERED_TAGS = (
    "<think>",
    "</think>",
    "[THINK]",
    "<|START_THINKING|>",
    "<seed:think>",
    "<|channel|>",
    "<|channel>",
)


def llama_cases() -> list[Case]:
    """List the cases; none where the data is not there."""
    path = data_folder() / "llama.cpp" / "test-chat.cpp"
    if not path.exists():
        return []
    found: list[Case] = []
    helpers: dict[str, Callable[..., Any]] = {
        "peg_tester": lambda path, *_: _Tester(path, found),
        "simple_assist_msg": assistant_message,
        "message_with_tool_calls": lambda name, arguments: assistant_message("", "", name, arguments),
        "message_with_tool_calls_and_reasoning": lambda name, call, thoughts: assistant_message(
            "", thoughts, name, call
        ),
        "message_with_reasoning_and_tool_call": lambda thoughts, *call: assistant_message(
            "", thoughts, *call
        ),
        "message_with_content_and_tool_call": lambda text, *call: assistant_message(text, "", *call),
        "message_with_reasoning_content_and_multiple_tool_calls": lambda thoughts, text, calls: (
            assistant_message(text, thoughts) | {"tool_calls": calls}
        ),
    }
    source = Source(path.read_text(encoding="utf-8"), helpers, new_value)
    source.call("test_template_output_peg_parsers", False)
    return found


class _Calls(list[Any]):
    """The calls of a message."""

    def push_back(self, call: list[str]) -> None:
        self.append((*call, "", "")[:3])


def assistant_message(text: str, thoughts: str = "", *call: str) -> dict[str, Any]:
    """Return a message of the model. call: a name, arguments as JSON text and an id; empty for no call."""
    calls = _Calls([(*call, "", "")[:3]] if any(call) else [])
    return {"role": "assistant", "content": text, "reasoning_content": thoughts, "tool_calls": calls}


def new_value(kind: str, values: list[Any]) -> Any:
    if kind == "common_chat_tool":
        name, description, parameters = values
        function = {"name": name, "description": description, "parameters": json.loads(parameters)}
        return {"type": "function", "function": function}
    if kind == "common_chat_msg":
        names = ("role", "content", "parts", "tool_calls", "reasoning_content", "tool_name", "tool_call_id")
        return assistant_message("") | dict(zip(names, values, strict=False))
    return values if kind.startswith("std::vector") else "".join(map(str, values))


class _Tester:
    """Stands for the tests' object of one template."""

    def __init__(self, path: str, found: list[Case]) -> None:
        self._template = PurePath(path).stem
        self._found = found

    def test(self, answer: str) -> "_Builder":
        return _Builder(self._template, answer, self._found)


class _Builder:
    """Stands for the tests' object of one case: each method notes what it is given."""

    def __init__(self, template: str, answer: str, found: list[Case]) -> None:
        self._template, self._answer, self._found = template, answer, found
        self._given: dict[str, Any] = {}
        self._expected = assistant_message("")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def note(value: Any = True) -> "_Builder":
            self._given[name] = value
            return self

        return note

    def expect(self, message: dict[str, Any]) -> "_Builder":
        self._expected = message
        return self

    def expect_content(self, text: str) -> "_Builder":
        return self._expect("content", text)

    def expect_reasoning(self, text: str) -> "_Builder":
        return self._expect("reasoning_content", text)

    def expect_tool_calls(self, calls: list[Any]) -> "_Builder":
        return self._expect("tool_calls", calls)

    def _expect(self, key: str, value: Any) -> "_Builder":
        self._expected = {**self._expected, key: value}
        return self

    def run(self) -> None:
        given, expected = self._given, self._expected
        case = Case(
            source="llama.cpp",
            template=self._template,
            answer=self._answer,
            text=expected["content"],
            thoughts=expected["reasoning_content"],
            calls=tuple((name, arguments) for name, arguments, *_ in expected["tool_calls"]),
            tools=tuple(_tools(given.get("tools", ()))),
            thinks=given.get("enable_thinking", True) and given.get("reasoning_format", NONE) != NONE,
            is_partial=bool(given.get("is_partial")),
            schema=given.get("json_schema", ""),
            must_call=given.get("tool_choice") == "COMMON_CHAT_TOOL_CHOICE_REQUIRED",
            set_aside=_set_aside(given, expected),
            messages=tuple(given.get("messages", ())),
        )
        self._found.append(case)


def _tools(values: Any) -> list[dict[str, Any]]:
    """Return the tools in lists in lists, made where only their parts are given."""
    if isinstance(values, dict):
        return [values]
    if values and all(isinstance(value, str) for value in values):
        return [new_value("common_chat_tool", values)]
    return [tool for value in values for tool in _tools(value)]


def _set_aside(given: dict[str, Any], expected: dict[str, Any]) -> str:
    """Say why a case cannot be judged here; nothing where it can."""
    keeps_tags = any(tag in expected["content"] for tag in RENDERED_TAGS)
    if given.get("reasoning_format", NONE) == NONE and keeps_tags:
        return "thoughts left in the text, which is no option here"
    last = (given.get("messages") or [expected])[-1]
    goes_on = str(given.get("continue_final_message", "")).endswith(("_CONTENT", "_REASONING"))
    if goes_on and (not last["content"] or given["continue_final_message"].endswith("_REASONING")):
        return "goes on with thoughts of the client, which is no option here"
    if any(not TOOL_NAME.fullmatch(tool["function"]["name"]) for tool in _tools(given.get("tools", ()))):
        return BAD_NAME
    return ""
