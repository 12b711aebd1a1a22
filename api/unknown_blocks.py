"""Content blocks of types that this server does not know, as text that the model can read.

A client sends the whole conversation with each request, and some of it may come from another server: searches
and their results, code that ran there, summaries, calls of a connector. What has happened cannot be refused:
a refused block would end the session. So its texts are shown, under its type's name.
"""

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 12
MAX_TEXT_CHARS = 100_000  # of one block

HIDDEN = frozenset(
    {
        "type",
        "id",
        "tool_use_id",
        "signature",
        "cache_control",
        "encrypted_content",
        "encrypted_index",
        "data",
    }
)
"""Fields without words for a model: ids, keys, and what only the server that made them can read."""


def text_block(block: object) -> object:
    """Return a block as a text block of its type's name and its texts; a value that is no block as it is."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    kind = block.get("type")
    if not isinstance(kind, str):
        return block
    words = "\n".join(_texts(block))[:MAX_TEXT_CHARS]
    note = f"[{kind[:80]}]"
    return {"type": "text", "text": f"{note}\n{words}" if words else note}


def _texts(value: Any, name: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the texts, numbers and flags in a value, with their fields' names unless they are plain text."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in HIDDEN:
                yield from _texts(entry, str(key), depth + 1)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, name, depth + 1)
    elif isinstance(value, str) and value:
        yield value if name in ("text", "content", "thinking") else f"{name}: {value}"
    elif isinstance(value, int | float):
        yield f"{name}: {value}"
