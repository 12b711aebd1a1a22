"""No value of any field, however odd, raises anything but a refusal."""

import random
from typing import Any

import pytest
from pydantic import ValidationError

from pensieve.api.answer_options import answer_options
from pensieve.api.errors import ApiError
from pensieve.api.openai.chat import messages_request
from pensieve.api.openai.requests import ChatRequest, CompletionRequest
from pensieve.api.schema import MessagesRequest

from ..budget import trials

BODY = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "prompt": "x"}
NAMES = {*MessagesRequest.model_fields, *ChatRequest.model_fields, *CompletionRequest.model_fields}
NAMES |= {"guided_json", "guided_choice", "grammar", "json_schema", "structured_outputs", "response_format"}
NAMES |= {"echo", "functions", "repeat_penalty"}

LEAVES: list[Any] = [None, 0, -1, 1.5, True, False, "", "x", "text", "tool", "function", "assistant", "{"]
KEYS = ["type", "role", "content", "text", "name", "function", "tools", "arguments", "id", "tool_calls"]
KEYS += ["schema", "json_schema", "image_url", "thinking", "input", "tool_call_id", "function_call", "a"]


def odd(rng: random.Random, depth: int = 0) -> Any:
    """Make a random value of JSON whose keys are those of requests."""
    shape = rng.random() if depth < 4 else 0.0
    if shape < 0.3:
        return rng.choice(LEAVES)
    if shape < 0.6:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(KEYS): odd(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("kind", [MessagesRequest, ChatRequest, CompletionRequest])
def test_odd_values_are_read_or_refused(kind: Any) -> None:
    rng = random.Random(7)
    for _ in range(trials(40, 300)):
        for name in sorted(NAMES):
            value = odd(rng)
            try:
                request = kind.model_validate(BODY | {name: value})
                if kind is CompletionRequest:
                    request.generation_request()
                else:
                    answer_options(messages_request(request) if kind is ChatRequest else request)
            except (ValidationError, ApiError):
                pass
