"""Counts the prompt tokens that a session with tools adds, and those that the server computes for it.

    python -m pensieve.bench.tool_turns --url http://127.0.0.1:7777 --claude PATH --turns 20
    python -m pensieve.bench.tool_turns --url http://127.0.0.1:7777 --turns 20

With `--claude`, the real client runs commands, reads files and edits them, by turns, in one conversation.
Without, a scripted client runs commands, and sends each call back with its keys sorted and a default added,
as the real one does with some tools. What a session adds is the growth of its prompts from the first
request to the last.
"""

import argparse
import json
import os
import random
import subprocess
import urllib.request
from collections import abc
from typing import Any

from .. import DEFAULT_URL, LOCAL_KEY
from .claude import ClientFailed, Draw, Session, edit_task, read_task, run_task

KINDS = (run_task, read_task, edit_task)

Prompts = list[tuple[int, int]]
"""The tokens of each request's prompt: all, and those that were computed."""

PROPERTIES: dict[str, Any] = {
    "command": {"type": "string"},
    "description": {"type": "string"},
    "run_in_background": {"type": "boolean", "default": False},
}
BASH = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {"type": "object", "properties": PROPERTIES, "required": ["command"]},
}


def play_claude(session: Session, num_turns: int, seed: int) -> Prompts:
    """Ask the real client for `num_turns` tasks in one conversation. Raises ClientFailed."""
    for turn in range(num_turns):
        KINDS[turn % len(KINDS)](session, Draw(random.Random(f"{seed}-{turn}")), turn > 0)
    return session.prompts


def play_script(url: str, num_turns: int, seed: int) -> Prompts:
    """Ask for `num_turns` commands in one conversation, and send the calls back rewritten."""
    messages: list[dict[str, Any]] = []
    prompts: Prompts = []
    for turn in range(num_turns):
        command = Draw(random.Random(f"{seed}-{turn}")).command()
        messages.append({"role": "user", "content": f"Run the command `{command}` and report its output."})
        calls: list[dict[str, Any]] = [{}]
        while calls:
            answer = ask(url, messages)
            usage = answer["usage"]
            computed = usage["input_tokens"]
            prompts.append((computed + usage["cache_read_input_tokens"], computed))
            calls = [block for block in answer["content"] if block["type"] == "tool_use"]
            results = [result_of(call, command) for call in calls]
            for call in calls:
                call["input"] = dict(
                    sorted({**call["input"], "run_in_background": False}.items(), reverse=True)
                )
            messages.append({"role": "assistant", "content": answer["content"]})
            if results:
                messages.append({"role": "user", "content": results})
    return prompts


def ask(url: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Send a conversation and return the answer's body."""
    body = {"model": "default", "max_tokens": 300, "messages": messages, "tools": [BASH]}
    headers = {"content-type": "application/json", "x-api-key": LOCAL_KEY}
    request = urllib.request.Request(f"{url}/v1/messages", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def result_of(call: dict[str, Any], command: str) -> dict[str, Any]:
    """Return a call's result: the output of the command that was asked for, whatever the model has called."""
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    return {"type": "tool_result", "tool_use_id": call["id"], "content": output.strip()}


def main(arguments: abc.Sequence[str] | None = None) -> None:
    """Play a session and print what it added and what was computed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--claude", default=os.environ.get("PENSIEVE_CLAUDE"), help="the real client's path")
    parser.add_argument("--turns", type=int, default=20, help="questions in the conversation")
    parser.add_argument("--full", action="store_true", help="the client's default prompt instead of --bare")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.claude is None:
        prompts = play_script(options.url, options.turns, options.seed)
    else:
        with Session(options.url, options.claude, bare=not options.full) as session:
            try:
                prompts = play_claude(session, options.turns, options.seed)
            except ClientFailed as error:
                parser.exit(1, f"{error}\n")
    added = prompts[-1][0] - prompts[0][0]
    computed = sum(tokens for _, tokens in prompts[1:])
    print(f"{len(prompts)} requests, the first of {prompts[0][0]} tokens, the last of {prompts[-1][0]}")
    print(f"added {added}, computed {computed}: {computed / added:.1%}")


if __name__ == "__main__":
    main()
