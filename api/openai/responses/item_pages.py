"""Pages of items, for clients that list them."""

import json
from collections import abc
from typing import Any

from ...errors import InvalidRequest
from .response_store import StoredItem

DEFAULT_PAGE, MAX_PAGE = 20, 100


def item_list(items: abc.Sequence[StoredItem], has_more: bool = False) -> dict[str, Any]:
    """Return the body of a list of items."""
    data = [json.loads(item.text) for item in items]
    ends = {name: items[i].id if items else None for name, i in (("first_id", 0), ("last_id", -1))}
    return {"object": "list", "data": data, "has_more": has_more} | ends


def item_page(items: abc.Sequence[StoredItem], query: abc.Mapping[str, str]) -> dict[str, Any]:
    """Return the page of some items that a query asks for, the newest first unless it says otherwise.

    Raises InvalidRequest for a `limit` that is no number, or too large a one.
    """
    limit = query.get("limit", str(DEFAULT_PAGE))
    size = int(limit) if limit.isdecimal() and limit.isascii() and len(limit) < 9 else 0
    if not 1 <= size <= MAX_PAGE:
        raise InvalidRequest(f"limit: must lie between 1 and {MAX_PAGE}")
    ordered = list(items) if query.get("order", "desc") == "asc" else list(reversed(items))
    ids = [item.id for item in ordered]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    page = ordered[start : start + size]
    return item_list(page, has_more=len(items) > start + len(page))
