"""Texts read by the parser of answers, and events joined so that they can be compared."""

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.detokenizer import WindowDetokenizer
from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
    call_input,
)
from pensieve.api.output.parser import OutputParser

from ...fakes import ByteTokenizer


def parse(text: str, answer_format: AnswerFormat, size: int = 1) -> tuple[OutputParser, list[OutputEvent]]:
    """Feed a text, `size` bytes at a time, and join the deltas of each block."""
    tokenizer = ByteTokenizer()
    parser = OutputParser(WindowDetokenizer(tokenizer.decode), answer_format)
    tokens = tokenizer.encode(text)
    events: list[OutputEvent] = []
    for start in range(0, len(tokens), size):
        events += parser.feed(tokens[start : start + size])
        if parser.done:
            break
    return parser, merge(events + parser.finish())


def merge(events: list[OutputEvent]) -> list[OutputEvent]:
    merged: list[OutputEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ThinkingDelta) and isinstance(last, ThinkingDelta):
            merged[-1] = ThinkingDelta(last.text + event.text)
        else:
            merged.append(event)
    return merged


def shape(events: list[OutputEvent]) -> list[object]:
    """Join each call to its name and input; ids are random."""
    shapes: list[object] = []
    arguments: list[str] = []
    name = ""
    for event in events:
        match event:
            case ToolCallStart():
                name, arguments = event.name, []
            case ArgumentsDelta():
                arguments.append(event.json)
            case ToolCallEnd():
                shapes.append((name, call_input(arguments)))
            case _:
                shapes.append(event)
    return shapes
