"""What the tests ask: questions whose answers the demo model knows."""

from typing import Any

from pensieve.bench.client import stream

GOLDEN = "5, 6, 7, 8, 9"
"""The answer to CANARY."""

ALLOWED_S = 120


def question(text: str, num_tokens: int = 120) -> dict[str, Any]:
    """Return a request."""
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-x", "max_tokens": num_tokens, "messages": messages}


CANARY = question("Count from 5 to 9.", 30)


def counting(number: int, sign: str = "", count: int = 25) -> dict[str, Any]:
    """Return a request whose answer has so many numbers after the first. sign: calls for a fault."""
    return question(f"{sign} Count from {number} to {number + count}.".strip(), 250)


def ask_canary(url: str, headers: dict[str, str] | None = None) -> str:
    """Return the answer to CANARY."""
    return stream(url, CANARY, ALLOWED_S, headers=headers or {}).text
