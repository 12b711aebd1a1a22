"""What requests to the messages routes say, and what answers hold."""

from typing import Any

from anthropic.types import Message, MessageParam

HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]
BASH: Any = {
    "name": "Bash",
    "description": "Runs a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'


def contents(message: Message) -> list[dict[str, object]]:
    """List a message's blocks without the fields that the SDK adds."""
    return [block.to_dict(exclude_unset=True, exclude_none=True) for block in message.content]
