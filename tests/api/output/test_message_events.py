"""Events of a stream, to the letter."""

import pytest

from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallStart,
)
from pensieve.api.output.message_events import MessageStreamWriter, sse

WORDS = 'a "quote", a \\, a line\r\n\x00, é 😀 \u2028 and <|im_end|>'


@pytest.mark.parametrize(
    ("start", "event", "delta"),
    [
        (TextDelta("Hi"), TextDelta(WORDS), {"type": "text_delta", "text": WORDS}),
        (ThinkingDelta("Hm"), ThinkingDelta(WORDS), {"type": "thinking_delta", "thinking": WORDS}),
        (ToolCallStart("Bash"), ArgumentsDelta(WORDS), {"type": "input_json_delta", "partial_json": WORDS}),
    ],
)
def test_a_delta_is_written_as_other_events_are(
    start: OutputEvent, event: OutputEvent, delta: dict[str, str]
) -> None:
    writer = MessageStreamWriter("default")
    writer.events([start])
    expected = sse({"type": "content_block_delta", "index": 0, "delta": delta})
    assert writer.events([event]) == expected
