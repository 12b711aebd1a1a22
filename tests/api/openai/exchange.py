"""What requests to OpenAI's routes say, and the two ways to send them."""

from typing import Any

import httpx
from openai.types.chat import ChatCompletionMessageParam

from ..conftest import Server

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
BASH: Any = {
    "type": "function",
    "function": {
        "name": "Bash",
        "description": "Runs a command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
        "strict": True,
    },
}
ROUTES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HELLO},
    "completions": {"prompt": "Hello"},
}


def chat(server: Server, **fields: Any) -> Any:
    return server.openai().chat.completions.create(**({"model": "default", "messages": HELLO} | fields))


def post(server: Server, route: str, timeout_s: float = 20, **fields: Any) -> httpx.Response:
    body = {"model": "default"} | ROUTES[route] | fields
    return server.http().post(f"/v1/{route}", json=body, timeout=timeout_s)
