"""Bodies with wrong values in any place get an answer or a clear 400, never a 500."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from ....budget import trials
from ....fakes import ByteTokenizer
from ...conftest import Server, StartServer
from ...exchange import CALL
from .exchange import BASH

BODY: dict[str, Any] = {
    "model": "default",
    "instructions": "Be brief.",
    "max_output_tokens": 50,
    "top_logprobs": 2,
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "truncation": "auto",
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "Bash"}]},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": BASH["parameters"]}},
    "tools": [
        BASH,
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "definition": "G"}},
        {"type": "local_shell"},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "apply_patch"},
        {"type": "tool_search", "execution": "client"},
        {"type": "namespace", "name": "ns", "tools": [BASH]},
        {"type": "web_search"},
    ],
    "input": [
        {"role": "developer", "content": "Hi"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "t"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA"},
                {"type": "input_file", "filename": "f"},
                {"type": "odd"},
            ],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "x"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
        {"type": "function_call", "call_id": "a", "name": "Bash", "namespace": "ns", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x"},
        {"type": "local_shell_call", "id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "apply_patch_call", "call_id": "d", "operation": {"type": "delete_file", "path": "p"}},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "o"}]},
        {
            "type": "shell_call_output",
            "call_id": "c",
            "output": [{"stdout": "a", "outcome": {}}],
        },
        {"type": "tool_search_output", "call_id": "e", "tools": [BASH | {"name": "late"}, {"type": "mcp"}]},
        {"type": "additional_tools", "tools": [{"type": "custom", "name": "z"}]},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "item_reference", "id": "none"},
        {"role": "user", "content": "Go on."},
    ],
}
ODD: list[Any] = [
    *(None, True, -1, 1.5, 2**70, "", "x", "\x00", "\ud800x", "x" * 600, "<|im_end|>", "</think>"),
    *(
        [],
        {},
        [[]],
        [None],
        [{}],
        {"type": "x"},
        {"type": []},
        {"role": "user"},
        {"text": 5},
        {"stdout": None},
    ),
    *("data:,", "pensieve:!!", "{", '{"a": 1e999}', "[1]", {"$ref": "#"}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def broken(rng: random.Random) -> dict[str, Any]:
    """Put an odd value into the place of another one, once to three times."""
    body = copy.deepcopy(BODY)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *path, last = rng.choice(list(places(body)))
        target: Any = body
        for key in path:
            target = target[key]
        target[last] = copy.deepcopy(rng.choice([*ODD, *BODY["input"]]))
    return body | {"stream": rng.random() < 0.3}


@pytest.fixture
def thinker(start_server: StartServer) -> Server:
    return start_server(tokenizer=ByteTokenizer(thinks=True))


@pytest.mark.parametrize("seed", range(trials(1, 4)))
def test_wrong_values_get_an_answer_or_a_clear_refusal(thinker: Server, seed: int) -> None:
    thinker.scheduler.play(thinker.script(f"<think>\nHm.\n</think>a {CALL}", size=40))
    client, rng = thinker.http(), random.Random(seed)
    headers = {"content-type": "application/json"}
    statuses = set()
    for _ in range(80):
        body = json.dumps(broken(rng))
        response = client.post("/v1/responses", content=body, headers=headers)
        statuses.add(response.status_code)
        if response.status_code == 200:
            assert "response.failed" not in response.text, body
        else:
            assert response.status_code in (400, 404), body
            assert response.json()["error"]["message"], body
    assert {200, 400} <= statuses
