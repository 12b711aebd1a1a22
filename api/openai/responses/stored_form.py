"""The form in which items of requests are kept, and in which clients read them again."""

from typing import Any

from ...lenient import Json
from ...output.message_events import compact_json
from .input_items import InputItem, MessageItem
from .open_items import new_id
from .response_store import StoredItem

ID_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


def stored_item(item: InputItem, raw: Json) -> StoredItem:
    """Return an item of a request as it is kept. raw: the item as it came."""
    item_id = item.id or new_id(ID_PREFIXES.get(item.type, "item"))
    form = raw | {"type": item.type, "id": item_id}
    if isinstance(item, MessageItem):
        form = {"status": "completed"} | form | {"content": _parts(item.role, raw.get("content"))}
    return StoredItem(item_id, as_json(form))


def as_json(value: dict[str, Any]) -> bytes:
    """Return a body or an item as JSON."""
    return compact_json(value).encode()


def _parts(role: str, content: Json) -> Json:
    """Return a message's content as parts: a text alone is one part, as in OpenAI's own lists."""
    if not isinstance(content, str):
        return content or []
    if role != "assistant":
        return [{"type": "input_text", "text": content}]
    return [{"type": "output_text", "text": content, "annotations": []}]
