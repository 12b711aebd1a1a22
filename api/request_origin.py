"""Reads from headers and metadata who sends a request: which session, which agent, and what for.

The headers are Claude Code's (some of them only with CLAUDE_CODE_GATEWAY_HINT_HEADERS=1); `session-id` is
Codex's. They decide how long KV is kept and who goes first. Values that are too long or make no sense are
ignored.
"""

import json
import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import get_args

from starlette.requests import Request as HttpRequest

from ..scheduler.origin import Origin, RequestClass

PREFIX = "x-claude-code-"

KEY_HEADERS = ("authorization", "x-api-key")

MAX_CHARS = 200
"""Of a name."""

MAX_TOOLS = 32
"""Tools whose durations are read of one request."""

NO = frozenset({"", "0", "false", "no", "none"})

DURATION = re.compile(r"\s*([^\s=,;]{1,100})=(\d{1,12}(?:\.\d{1,6})?)\s*")


def owner_of(http: HttpRequest) -> bytes:
    """Return whose a request is: replies, responses and sessions of one owner are of no use to another.

    It is a digest of the API key's name, or of what was sent as a key where keys have no names.
    """
    state = http.scope["state"]
    if state["account"].name:
        return bytes(state["key"])
    found = blake2b(digest_size=16)
    for name in KEY_HEADERS:
        sent = http.headers.get(name, "").encode("utf-8", "surrogatepass")
        found.update(b"%d:" % len(sent) + sent)
    return found.digest()


def origin_of(headers: Mapping[str, str], user_id: str, owner: bytes, address: str) -> Origin:
    """Return the sender of a request.

    user_id: that of the request's metadata. owner: digest of the API key. address: of the client's host,
    which tells sessions apart where nothing else does. Its connections do not: a script with twenty is one.
    """

    def name(key: str) -> str:
        value = headers.get(key, "")
        return value if len(value) <= MAX_CHARS else ""

    has_key = any(headers.get(key) for key in KEY_HEADERS)
    session = name(PREFIX + "session-id") or name("session-id") or _session_of(user_id)
    return Origin(
        owner=owner if has_key or session else owner + address.encode(),
        session=session,
        agent=name(PREFIX + "agent-id"),
        parent=name(PREFIX + "parent-agent-id"),
        request_class=_request_class(headers),
        agent_type=name(PREFIX + "agent-type"),
        prompt_id=name(PREFIX + "prompt-id"),
        tool_times_s=_tool_times(headers.get(PREFIX + "prev-tool-durations", "")),
        is_compacted=_is_yes(headers, "context-compacted"),
    )


def _request_class(headers: Mapping[str, str]) -> RequestClass | None:
    if _is_yes(headers, "compaction"):
        return "compaction"
    value = headers.get(PREFIX + "request-class", "")
    return next((known for known in get_args(RequestClass) if known == value), None)


def _is_yes(headers: Mapping[str, str], key: str) -> bool:
    return headers.get(PREFIX + key, "").strip().lower() not in NO


def _session_of(user_id: str) -> str:
    """Return the session that `user_id` names: Claude Code writes an object of JSON, others a name."""
    if len(user_id) > 4 * MAX_CHARS:
        return ""
    try:
        fields = json.loads(user_id)
    except (ValueError, RecursionError):
        fields = None
    named = fields.get("session_id") if isinstance(fields, dict) else None
    session = named if isinstance(named, str) else user_id
    return session.encode("utf-8", "replace").decode() if len(session) <= MAX_CHARS else ""


def _tool_times(text: str) -> tuple[tuple[str, float], ...]:
    """Read `Read=12,Bash=3400`: milliseconds. Anything else is left out."""
    times = []
    for part in re.split("[,;]", text[: MAX_TOOLS * MAX_CHARS])[:MAX_TOOLS]:
        found = DURATION.fullmatch(part)
        if found and math.isfinite(seconds := float(found[2]) / 1000):
            times.append((found[1], seconds))
    return tuple(times)
