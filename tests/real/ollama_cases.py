"""The cases of ollama's tests of its parsers that stand in tables, read out of a checkout's source in Go.

Tables of single helpers are not tried, nor are answers whose calls a table gives only as they were written.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .go_source import GoReader, NotALiteral
from .reference_cases import Case, Read, case_of

# The files of tests, and the templates of the models whose format they read.
TEMPLATES = {
    "cogito_test.go": "llama-cpp-deepseek-r1",
    "deepseek3_test.go": "deepseek-ai-DeepSeek-V3.1",
    "gemma4_test.go": "google-gemma-4-31B-it",
    "glm46_test.go": "GLM-4.6",
    "glm47_test.go": "GLM-4.7-Flash",
    "laguna_test.go": "poolside-Laguna-XS.2",
    "lfm2_test.go": "LFM2.5-8B-A1B",
    "ministral_test.go": "mistralai-Ministral-3-14B-Reasoning-2512",
    "nemotron3nano_test.go": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "parser_test.go": "GLM-4.7-Flash",  # of glm4_moe_lite
    "qwen35_test.go": "Qwen3.5-4B",
    "qwen3_test.go": "Qwen-Qwen3-0.6B",
    "qwen3coder_test.go": "Qwen3-Coder",
    "qwen3vl_nonthinking_test.go": "Qwen-Qwen3-0.6B",
    "qwen3vl_thinking_test.go": "Qwen-Qwen3-0.6B",
}
# Tags of thoughts which models write themselves, and ollama's prompts for them.
OPENS = {
    "llama-cpp-deepseek-r1": "<think>",
    "mistralai-Ministral-3-14B-Reasoning-2512": "[THINK]",
    "Qwen-Qwen3-0.6B": "<think>",
}
FOLDERS = {"parsers", "glm4_moe_lite"}
TABLE = re.compile(r"(?:\w+\s*:?=|range) *(?=\[\](?:struct \{|testCase\{|step\{))")
TEST = re.compile(r"func Test\w+")
ANSWERS = ("input", "chunks", "steps", "rawToolCall")
THINKS = ("hasThinking", "hasThinkingSupport", "thinkingEnabled", "thinkEnabled", "think", "thinkValue")
TEXTS = ("expectedContent", "expectedText", "wantContent")
THOUGHTS = ("expectedThinking", "wantThinking")
CALLS = ("expectedToolCalls", "expectedCalls", "wantToolCall")
THINKING = re.compile("VLThinking")  # part of the names of tests of models that always think


def ollama_cases(checkout: Path) -> list[Case]:
    """List the cases of a checkout of ollama; none where its tests are not there."""
    cases: dict[tuple[Any, ...], Case] = {}
    for path in sorted(checkout.rglob("*_test.go")):
        template = TEMPLATES.get(path.name, "") if path.parent.name in FOLDERS else ""
        source = path.read_text(encoding="utf-8") if template else ""
        for start in TABLE.finditer(source):
            test = TEST.findall(source, 0, start.start())
            for row in _rows(source, start.end()):
                case = _case(template, row, test[-1] if test else "")
                if case is not None:
                    cases.setdefault((template, case.answer, case.thinks), case)
    return list(cases.values())


def _rows(source: str, place: int) -> list[dict[str, Any]]:
    try:
        return [row for row in GoReader(source, place).value() if isinstance(row, dict)]
    except NotALiteral:
        return []


def _case(template: str, row: dict[str, Any], test: str) -> Case | None:
    """Return the case of a row, if it holds an answer and all that the answer means."""
    answer, events = _answer(row)
    wants = row.keys() & {*TEXTS, *THOUGHTS, *CALLS, "steps"}
    if not answer or not wants:
        return None
    text, thoughts = _first(row, TEXTS) or "", _first(row, THOUGHTS) or ""
    calls = [_call(call) for call in _as_list(_first(row, CALLS))]
    for event in events:
        if "raw" in event:
            try:
                written = json.loads(event["raw"])
                calls.append((written["name"], written["arguments"]))
            except (ValueError, KeyError, TypeError):
                return None
        elif "args" in event:
            calls.append((event["name"], json.loads(event["args"] or "{}")))
        elif "Thinking" in event["_type"]:
            thoughts += event.get("content") or event.get("thinking", "")
        else:
            text += event.get("content", "")
    if "rawToolCall" in row:
        answer = f"<tool_call>{answer}</tool_call>"
    if "wantToolCalls" in row:  # their number alone
        return None
    tools = [_tool(tool) for tool in _as_list(row.get("tools"))]
    case = case_of("ollama", template, answer, text, calls, tools)
    thinks = bool(thoughts or THINKING.search(test)) or any(_truth(row.get(key)) for key in THINKS)
    opened = OPENS.get(template, "") if thinks and "lastMessage" not in row else ""
    answer = answer if answer.lstrip().startswith(opened) else opened + answer
    case = replace(case, answer=answer, thoughts=thoughts, thinks=thinks)
    says_calls = events or row.keys() & {*CALLS}
    return case if says_calls else replace(case, check=_text_check(case))


def _text_check(case: Case) -> Callable[[Read], str]:
    """Judge the text and thoughts of an answer whose calls stand in no table."""

    def check(read: Read) -> str:
        text, _, thoughts = read(case.answer)
        is_right = [text.strip(), thoughts.strip()] == [str(case.text).strip(), case.thoughts.strip()]
        return "" if is_right else f"text {text!r}, thoughts {thoughts!r}"

    return check


def _answer(row: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return a row's answer, and the events that its steps want."""
    parts = _as_list(_first(row, ANSWERS))
    events = [event for part in parts if "steps" in row for event in part.get("wantEvents") or []]
    texts = [part.get("input") if "steps" in row else part for part in parts]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else "", events


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if key in row), None)


def _truth(value: Any) -> bool:
    return bool(value.get("Value") if isinstance(value, dict) else value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _call(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    function = call["Function"]
    arguments = function.get("Arguments") or {}
    if isinstance(arguments, str):
        return function["Name"], json.loads(arguments)
    return function["Name"], {key: value for key, value in arguments.items() if key != "_type"}


def _tool(tool: Any) -> dict[str, Any]:
    """Return a tool's schema; a helper's arguments are its name and properties."""
    name, properties = tool if isinstance(tool, list) else _parts(tool["Function"])
    schemas = {key: _schema(value) for key, value in (properties or {}).items() if key != "_type"}
    parameters = {"type": "object", "properties": schemas}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def _parts(function: dict[str, Any]) -> tuple[str, Any]:
    return function["Name"], (function.get("Parameters") or {}).get("Properties")


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    types = value.get("Type") or []
    return {"type": types[0] if len(types) == 1 else types} if types else {}
