"""What many kinds of clients send: turns of sessions, questions, counts, nonsense; and some leave early."""

import http.client
import json
import random
import socket
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from pensieve.bench.turns import words

NUM_SESSIONS = 20
MAX_TURNS = 6
ALLOWED_S = 120

KINDS = {"turn": 40, "leave": 20, "short": 12, "count": 9, "nonsense": 9, "openai": 5, "look": 5}
"""How many of a hundred requests are of which kind."""

NONSENSE: tuple[tuple[str, str, bytes, int], ...] = (
    ("POST", "/v1/messages", b"{", 400),
    ("POST", "/v1/messages", b'{"model": "x", "max_tokens": 1, "messages": []}', 400),
    (
        "POST",
        "/v1/messages",
        b'{"model": "x", "max_tokens": -5, "messages": [{"role": "user", "content": "a"}]}',
        400,
    ),
    ("POST", "/v1/messages", b"[" * 5000, 400),
    ("POST", "/v1/nowhere", b"{}", 404),
    ("DELETE", "/v1/messages", b"", 405),
)
LOOKS = ("/health", "/metrics", "/v1/models", "/")

TOOL = {
    "name": "read_file",
    "description": "Reads a file.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}


@dataclass
class Session:
    """One conversation, which begins anew after some turns."""

    rng: random.Random
    name: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class MixedTraffic:
    """Sends requests to a server from several threads, and notes what was answered wrongly.

    wrong: answers that should have been others. short_s: seconds that each short question took, in order.
    """

    def __init__(self, url: str, seed: int) -> None:
        address = urllib.parse.urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._sessions = [Session(random.Random(seed * 1000 + i)) for i in range(NUM_SESSIONS)]
        self.wrong: list[str] = []
        self.short_s: list[float] = []
        self.counts = dict.fromkeys(KINDS, 0)

    def send(self, seed: int) -> None:
        """Send one request, of a kind and with a content that follow from the seed."""
        rng = random.Random(seed)
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        self.counts[kind] += 1
        try:
            getattr(self, f"_{kind}")(rng)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.wrong.append(f"{kind} {seed}: {error!r}")

    def _turn(self, rng: random.Random) -> None:
        session = rng.choice(self._sessions)
        with session.lock:
            if len(session.messages) >= 2 * MAX_TURNS or not session.messages:
                session.name = f"{session.rng.getrandbits(64):016x}"
                session.messages = []
            question = {"role": "user", "content": words(session.rng, 150)}
            messages = [*session.messages, question]
            body = self._body(messages, rng.randrange(2, 10)) | {"metadata": {"user_id": session.name}}
            if rng.random() < 0.3:
                body["tools"] = [TOOL]
            answer = self._stream(body)
            session.messages = [*messages, {"role": "assistant", "content": answer or "."}]

    def _leave(self, rng: random.Random) -> None:
        text = words(rng, rng.choice([10, 100, 1000]))
        body = self._body([{"role": "user", "content": text}], 200) | {"stream": rng.random() < 0.7}
        sent = json.dumps(body).encode()
        head = f"POST /v1/messages HTTP/1.1\r\nHost: localhost:{self._port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        whole = head.encode() + sent
        with socket.create_connection((self._host, self._port), ALLOWED_S) as connection:
            if rng.random() < 0.2:
                whole = whole[: rng.randrange(len(whole))]
            connection.sendall(whole)
            time.sleep(rng.choice([0, 0.01, 0.05, 0.2]))
            if rng.random() < 0.5:  # with a reset in place of an ordinary end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _short(self, rng: random.Random) -> None:
        begun_s = time.perf_counter()
        body = self._body([{"role": "user", "content": words(rng, 40)}], 8)
        self._expect("POST", "/v1/messages", json.dumps(body).encode(), 200)
        self.short_s.append(time.perf_counter() - begun_s)

    def _count(self, rng: random.Random) -> None:
        body = {"model": "claude-x", "messages": [{"role": "user", "content": words(rng, 200)}]}
        self._expect("POST", "/v1/messages/count_tokens", json.dumps(body).encode(), 200)

    def _nonsense(self, rng: random.Random) -> None:
        self._expect(*rng.choice(NONSENSE))

    def _openai(self, rng: random.Random) -> None:
        body = self._body([{"role": "user", "content": words(rng, 100)}], 8)
        self._expect("POST", "/v1/chat/completions", json.dumps(body).encode(), 200)

    def _look(self, rng: random.Random) -> None:
        self._expect("GET", rng.choice(LOOKS), b"", 200)

    @staticmethod
    def _body(messages: list[dict[str, Any]], num_tokens: int) -> dict[str, Any]:
        return {"model": "claude-x", "max_tokens": num_tokens, "messages": messages}

    def _request(self, method: str, path: str, body: bytes) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ALLOWED_S)
        connection.request(method, path, body or None, {"content-type": "application/json"})
        return connection

    def _expect(self, method: str, path: str, body: bytes, status: int) -> None:
        connection = self._request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != status:
            self.wrong.append(f"{method} {path}: {answer.status} in place of {status}: {text[:200]!r}")

    def _stream(self, body: dict[str, Any]) -> str:
        connection = self._request("POST", "/v1/messages", json.dumps(body | {"stream": True}).encode())
        answer = connection.getresponse()
        events = [json.loads(line[6:]) for line in answer if line.startswith(b"data: ")]
        connection.close()
        if answer.status != 200 or not events or events[-1]["type"] != "message_stop":
            self.wrong.append(f"stream: {answer.status}, {len(events)} events, {events[-1:]}")
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        return "".join(delta.get("text", "") for delta in deltas)
