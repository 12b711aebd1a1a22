"""Events of a stream, to the letter."""

import pytest

from pensieve.api.formats.output_events import Arguments, CallStart, Piece, Text, Thinking
from pensieve.api.message_events import EventWriter, sse

WORDS = 'a "quote", a \\, a line\r\n\x00, é 😀 \u2028 and <|im_end|>'


@pytest.mark.parametrize(
    ("start", "piece", "delta"),
    [
        (Text("Hi"), Text(WORDS), {"type": "text_delta", "text": WORDS}),
        (Thinking("Hm"), Thinking(WORDS), {"type": "thinking_delta", "thinking": WORDS}),
        (CallStart("Bash"), Arguments(WORDS), {"type": "input_json_delta", "partial_json": WORDS}),
    ],
)
def test_a_delta_is_written_as_other_events_are(start: Piece, piece: Piece, delta: dict[str, str]) -> None:
    writer = EventWriter("default")
    writer.pieces([start])
    expected = sse({"type": "content_block_delta", "index": 0, "delta": delta})
    assert writer.pieces([piece]) == expected
