"""What a request asks to be left out of its own history, in the field `context_management`."""

from typing import Any, Literal

Json = Any

CLEAR_THINKING = "clear_thinking_"

KeptTurns = Literal["all"] | int
"""Of how many last turns with thoughts the thoughts stay in the prompt."""


def kept_turns(management: Json) -> KeptTurns | None:
    """Return whose thoughts stay, None where the request does not say; what it says otherwise is ignored."""
    edits = management.get("edits") if isinstance(management, dict) else None
    for edit in edits if isinstance(edits, list) else ():
        if isinstance(edit, dict) and str(edit.get("type", "")).startswith(CLEAR_THINKING):
            return _read_keep(edit.get("keep", 1))
    return None


def _read_keep(keep: Json) -> KeptTurns | None:
    if isinstance(keep, dict):
        keep = keep.get("value", keep.get("type"))
    if keep == "all":
        return "all"
    return keep if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1 else None
