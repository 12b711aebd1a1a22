"""Pictures, sounds and documents, for a model that reads text only. Nothing is ever fetched.

A note that the model can read replaces such content, or the request is refused. For Claude Code a note is
better: every request repeats the whole conversation, so that one refused picture would end the session.
"""

from collections.abc import Iterable

from ..errors import InvalidRequest
from ..schema import DocumentBlock, MediaBlock, Message, TextBlock, ToolResultBlock
from ..wire_base import Wire


def media_text(block: MediaBlock | DocumentBlock) -> str:
    """Return a document's text, or a note in the place of content that is not text."""
    if isinstance(block, MediaBlock):
        return _note(block.type, block.source.media_type)
    source = block.source
    title = f"Document: {block.title}\n" if block.title else ""
    if source.type == "text" and source.data is not None:
        return title + source.data
    if source.type == "content":
        parts = (part.text if isinstance(part, TextBlock) else media_text(part) for part in source.content)
        return title + "\n".join(parts)
    return title + _note("document", source.media_type)


def refuse_media(messages: Iterable[Message]) -> None:
    """Raise InvalidRequest if a conversation holds content that is not text."""
    for message in messages:
        for block in message.content:
            for part in (block, *(block.content if isinstance(block, ToolResultBlock) else ())):
                if _is_unreadable(part):
                    raise InvalidRequest(
                        f"messages: content of type {part.type!r} is not supported: the served model reads "
                        "text only, and this server refuses the rest (--images)",
                        reason="media",
                    )


def _is_unreadable(block: Wire) -> bool:
    if isinstance(block, DocumentBlock):
        if block.source.type == "content":
            return any(isinstance(part, MediaBlock) for part in block.source.content)
        return block.source.type != "text" or block.source.data is None
    return isinstance(block, MediaBlock)


def _note(kind: str, media_type: str | None) -> str:
    described = f"{kind} ({media_type})" if media_type else kind
    return f"[{described} left out: the served model reads text only and cannot see or hear it]"
