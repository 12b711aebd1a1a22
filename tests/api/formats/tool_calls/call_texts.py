"""A call in the words of each format that mlx-lm reads, and how tests read it."""

import json
from collections.abc import Callable
from typing import Any

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
)

from ...output.parsing import parse, shape
from .known_formats import tool_format

PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}, "times": {"type": "integer"}},
}
WRITE: dict[str, Any] = {"type": "function", "function": {"name": "Write", "parameters": PARAMETERS}}
READ: dict[str, Any] = {"type": "function", "function": {"name": "Read", "parameters": PARAMETERS}}
INPUT = {"path": "a.txt", "text": "one\ntwo", "times": 3}


def xml(name: str) -> str:
    values = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in INPUT.items())
    return f"\n<function={name}>\n{values}</function>\n"


def pairs(name: str, prefix: str = "") -> str:
    values = (
        f"<{prefix}arg_key>{k}</{prefix}arg_key>\n<{prefix}arg_value>{v}</{prefix}arg_value>"
        for k, v in INPUT.items()
    )
    return "\n".join([name, *values]) + "\n"


def invoke(name: str, prefix: str = "") -> str:
    values = (f'<{prefix}parameter name="{k}">{v}</{prefix}parameter>' for k, v in INPUT.items())
    return "\n".join([f'<{prefix}invoke name="{name}">', *values, f"</{prefix}invoke>"])


def kimi(name: str) -> str:
    call = f"functions.{name}:0<|tool_call_argument_begin|>{json.dumps(INPUT)}"
    return f"<|tool_call_begin|>{call}<|tool_call_end|>"


def minicpm(name: str) -> str:
    return f'"{name}">' + "".join(f'<param name="{k}">{v}</param>' for k, v in INPUT.items())


def gemma(name: str) -> str:
    return f'call:{name}{{path:<|"|>a.txt<|"|>,text:<|"|>one\ntwo<|"|>,times:3}}'


BODIES: dict[str, Callable[[str], str]] = {  # of one call, by mlx-lm's parsers
    "json_tools": lambda name: json.dumps({"name": name, "arguments": INPUT}),
    "mistral": lambda name: f"{name}[ARGS]{json.dumps(INPUT)}",
    "kimi_k2": kimi,
    "qwen3_coder": xml,
    "glm47": pairs,
    "longcat": lambda name: pairs(name, "longcat_"),
    "minimax_m2": invoke,
    "muse_spark": lambda name: invoke(name, "atem:"),
    "minicpm5": minicpm,
    "pythonic": lambda name: f"[{name}(path='a.txt', text='one\\ntwo', times=3)]",
    "gemma4": gemma,
}
STREAMED = [name for name in BODIES if name not in ("pythonic", "gemma4")]


def answer_format(parser: str, **options: Any) -> AnswerFormat:
    return AnswerFormat(tool_format=tool_format(parser), tools=[WRITE, READ], **options)


def call_text(parser: str, name: str = "Write") -> str:
    form = answer_format(parser).tool_format
    assert form is not None
    return f"{form.start}{BODIES[parser](name)}{form.end}"


def parse_calls(text: str, form: AnswerFormat) -> list[tuple[str, dict[str, Any]]]:
    return [event for event in shape(parse(text, form)[1]) if isinstance(event, tuple)]


def fragments(events: list[OutputEvent]) -> list[str]:
    return [event.json for event in events if isinstance(event, ArgumentsDelta)]
