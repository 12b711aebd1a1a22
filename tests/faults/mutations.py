"""Bodies like Claude Code's in which something is broken: cut, doubled, swapped or of another type."""

import json
import random
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
    "required": ["command"],
}
TOOLS = [
    {"name": name, "description": f"Does {name}.", "input_schema": SCHEMA}
    for name in ("Bash", "Read", "mcp__files__list")
]
CALL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls", "timeout": 5}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "a.txt"}]}
QUESTION = {
    "role": "user",
    "content": [{"type": "text", "text": "Look.", "cache_control": {"type": "ephemeral"}}],
}
ROUND = [QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "I look."}, CALL]}]
ANSWERED = [*ROUND, {"role": "user", "content": [RESULT, {"type": "text", "text": "<system-reminder>"}]}]
BODY = {
    "model": "claude-x",
    "max_tokens": 1,
    "system": [{"type": "text", "text": "You are a client.", "cache_control": {"type": "ephemeral"}}],
    "metadata": {"user_id": "user_1_account__session_2"},
    "temperature": 1,
}
BODIES: tuple[dict[str, Any], ...] = (
    BODY | {"messages": [QUESTION]},
    BODY | {"messages": [QUESTION], "tools": TOOLS, "tool_choice": {"type": "auto"}},
    BODY | {"messages": ANSWERED, "tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    BODY | {"messages": ANSWERED, "tools": TOOLS, "stop_sequences": ["\n\nHuman:"], "top_k": 5},
    BODY | {"messages": [QUESTION], "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    BODY | {"messages": [QUESTION], "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
)

WORDS: tuple[bytes, ...] = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1",
    b"0",
    b"1.5",
)
WORDS += (
    b"true",
    b"9" * 400,
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
    b"\\",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"/*",
)
ODD_VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**63, 1e308, "", "x", [], {}, [None], {"type": 3}, [[]])


def mutate(rng: random.Random) -> bytes:
    """Return a body in which one to three things are wrong, perhaps none that matters."""
    body = json.loads(json.dumps(rng.choice(BODIES)))
    if rng.random() < 0.5:
        change_value(body, rng)
    text = json.dumps(body).encode()
    return break_text(text, rng) if rng.random() < 0.7 else text


def change_value(body: Any, rng: random.Random) -> None:
    """Replace, remove, rename or double one value somewhere in the body."""
    places: list[tuple[Any, Any]] = []
    waiting = [body]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys if isinstance(one[key], dict | list)]
    holder, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(["type", "role", "content", "zzz"])] = holder.pop(key)
    elif kind == 1:
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(ODD_VALUES)


def break_text(text: bytes, rng: random.Random) -> bytes:
    """Cut, double or overwrite a part of the text, or put a word into it."""
    for _ in range(rng.randrange(1, 3)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 1, 2, 8, 40, 10**6]))
        put = rng.choice([b"", rng.choice(WORDS), 2 * text[start:end], rng.randbytes(3)])
        text = text[:start] + put + text[end:]
    return text
