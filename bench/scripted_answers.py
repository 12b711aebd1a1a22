"""Stands between Claude Code and a server: the server reads every prompt, a script gives every answer.

The server computes each prompt and says how many of its tokens it had cached; what it answers is thrown away,
so that a session goes the same way with any model.
"""

import itertools
import json
import re
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .. import LOCAL_KEY

Json = dict[str, Any]

Block = tuple[str, Json]
"""A block of an answer: "text" or "thinking" with its text, or a tool's name with the call's arguments."""

TIMEOUT_S = 600

WINDOW = 200_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server had cached of a prompt. agent: the subagent that sent it, empty for none."""

    question: str
    agent: str
    prompt_tokens: int
    cached_tokens: int


class ScriptedAnswers(ThreadingHTTPServer):
    """Listens on a free port. As a context manager it serves, in a thread, until its end.

    readings: of all requests so far. rewrite: changes a body's JSON text before the server reads it.
    """

    def __init__(self, url: str, answer: Callable[[str], list[Block]]) -> None:
        """answer: gives the answer to the last words of a conversation, or to a tool's result."""
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.readings: list[Reading] = []
        self.rewrite: Callable[[str], str] = str
        self.numbers = itertools.count(1)  # of answers
        self.answer = answer
        self.target = url
        self._lock = threading.Lock()  # one prompt after the other, so that all figures can be repeated
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def respond(self, raw: bytes, headers: Message) -> tuple[Json, list[Block]]:
        """Return a request's body and the script's answer to it."""
        body = self.read(raw, headers.get("x-claude-code-agent-id", ""))
        return body, self.answer(last_words(body))

    def read(self, raw: bytes, agent: str) -> Json:
        """Let the server compute a request's prompt, and keep the figures. Return the request."""
        body: Json = json.loads(self.rewrite(raw.decode()))
        headers = {"content-type": "application/json", "x-api-key": LOCAL_KEY}
        sent = json.dumps(body | {"stream": False, "max_tokens": 1})
        with self._lock:
            request = urllib.request.Request(f"{self.target}/v1/messages", sent.encode(), headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                usage = json.load(answer)["usage"]
            cached = usage["cache_read_input_tokens"]
            total = cached + usage["input_tokens"] + usage.get("cache_creation_input_tokens", 0)
            self.readings.append(Reading(last_words(body), agent, total, cached))
        return body


class _Exchange(BaseHTTPRequestHandler):
    """One request of the client."""

    server: ScriptedAnswers
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer a probe."""
        self._send(b"", "text/plain")

    def do_GET(self) -> None:
        """Describe the server to `pensieve claude`, with a window in which nothing is compacted."""
        with urllib.request.urlopen(f"{self.server.target}/health", timeout=TIMEOUT_S) as answer:
            health = json.load(answer) | {"max_context": WINDOW}
        self._send(json.dumps(health).encode(), "application/json")

    def do_POST(self) -> None:
        """Answer a conversation, or count nothing."""
        raw = self.rfile.read(int(self.headers["content-length"]))
        if "/count_tokens" in self.path:
            self._send(b'{"input_tokens": 1}', "application/json")
            return
        body, answer = self.server.respond(raw, self.headers)
        events = stream_of(answer, body["model"], next(self.server.numbers))
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
        self._send("".join(lines).encode(), "text/event-stream")

    def _send(self, content: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def last_words(body: Json) -> str:
    """Return the user's last words, without reminders; "result" where they are a tool's result."""
    said = [message["content"] for message in body["messages"] if message["role"] == "user"][-1:]
    blocks = [{"type": "text", "text": said[0]}] if isinstance(said[0], str) else said[0]
    if any(block["type"] == "tool_result" for block in blocks):
        return "result"
    text = "\n".join(block.get("text", "") for block in blocks)
    return re.sub(r"<system-reminder>.*?</system-reminder>", "", text, flags=re.DOTALL).strip()


def stream_of(answer: list[Block], model: str, number: int) -> list[Json]:
    """Return an answer's events. number: of the answer, for its ids.

    The client sends thoughts back only to the model that has had them.
    """
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": [], "model": model}
    events: list[Json] = [
        {"type": "message_start", "message": message | {"stop_reason": None, "usage": usage}},
    ]
    for index, (name, content) in enumerate(answer):
        block: Json = {"type": name, name: ""}
        deltas: list[Json] = [{"type": f"{name}_delta", name: content.get("text", "")}]
        if name == "thinking":
            block["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": "c2ln"})
        elif name != "text":
            block = {"type": "tool_use", "id": f"toolu_{number}_{index}", "name": name, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(content)}]
        events += [
            {"type": "content_block_start", "index": index, "content_block": block},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]
    stop_reason = "end_turn" if answer[-1][0] == "text" else "tool_use"
    events.append({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage})
    return [*events, {"type": "message_stop"}]
