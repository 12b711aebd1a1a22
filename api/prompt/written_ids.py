"""Finds the ids that a model has written in its calls, as Mistral, Kimi K2, Solar Open and Apriel do."""

import json
import re
from typing import Any

HEADED = re.compile(r"(?:\[CALL_ID\]|<\|tool_call[:_]begin\|>)\s*([\w.:-]{1,64})")
LIST = re.compile(r"\[\s*\{")
KEYS = ("id", "tool_call_id")


def written_ids(text: str) -> tuple[str, ...]:
    """Return the ids of the calls in a reply's text, in order; none where some call has no id."""
    if headed := HEADED.findall(text):
        return tuple(headed)
    begin = LIST.search(text)
    if begin is None:
        return ()
    try:
        calls, _ = json.JSONDecoder(strict=False).raw_decode(text, begin.start())
    except (ValueError, RecursionError):
        return ()
    entries = [call for call in calls if isinstance(call, dict)]
    ids: list[Any] = [next((call[key] for key in KEYS if key in call), None) for call in entries]
    return tuple(ids) if all(isinstance(found, str) and found for found in ids) else ()
