"""What requests to the Responses API say, and how their streams are read."""

import json
from typing import Any

import httpx

from ...conftest import Server

BASH: Any = {
    "type": "function",
    "name": "Bash",
    "description": "Runs a command",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    "strict": False,
}


def respond(server: Server, **fields: Any) -> Any:
    return server.openai().responses.create(**({"model": "default", "input": "Hello"} | fields))


def post(server: Server, timeout_s: float = 20, **fields: Any) -> httpx.Response:
    body = {"model": "default", "input": "Hello"} | fields
    return server.http().post("/v1/responses", json=body, timeout=timeout_s)


def events(text: str) -> list[dict[str, Any]]:
    """Read a stream's events; the line that names each one agrees with its data."""
    found = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found
