"""What clients may send that is wrong, far too deep, too many or too long: a refusal of the right form."""

import http.client
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from pensieve.bench.turns import words

from ..budget import LONG, trials
from .figures import Figures, count_told
from .mutations import BODY, SCHEMA, mutate
from .questions import ALLOWED_S
from .watched_server import WatchedServer

PATHS = ("/v1/messages", "/v1/messages/count_tokens")

DEPTHS = (100, 300, 1000, 100_000)
ODD_NAMES = ("", "two words", "é😀", "../f", "<|im_start|>", "a\0b", "\ud800", "f" * 200)

COMBINED = 10**6
"""Combining marks on one letter."""

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>")


class Sender:
    """Sends bodies over one connection that is kept, and judges the answers.

    wrong: answers that are neither an answer nor a refusal in the API's form. seconds: of each; refusal_s: of
    those that were refused.
    """

    def __init__(self, port: int) -> None:
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.refusal_s: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ALLOWED_S)

    def send(self, raw: bytes, path: str = PATHS[0]) -> dict[str, Any]:
        """Send a body; return the answer's."""
        begun_s = time.perf_counter()
        self._connection.request("POST", path, raw, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        self.seconds.append(time.perf_counter() - begun_s)
        self.statuses[answer.status] += 1
        try:
            told: dict[str, Any] = json.loads(
                content.decode(), parse_constant=_refuse
            )  # loads() alone takes UTF-16
            is_refusal = 400 <= answer.status < 500 and told["type"] == "error"
            if is_refusal:
                assert told["error"]["type"]
                assert told["error"]["message"]
                assert told["request_id"] == answer.headers["request-id"]
            is_answer = answer.status == 200 and (told.get("type") == "message" or "input_tokens" in told)
        except (ValueError, KeyError, AssertionError):
            told, is_refusal, is_answer = {}, False, False
        if is_refusal:
            self.refusal_s.append(self.seconds[-1])
        elif not is_answer:
            self.wrong.append(f"{path}: {answer.status} {content[:300]!r} for {raw[:300]!r}")
        return told

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def send_all(server: WatchedServer, bodies: Iterable[tuple[str, bytes]]) -> Sender:
    """Send bodies one after another; return what became of them."""
    sender = Sender(server.port)
    for path, raw in bodies:
        sender.send(raw, path)
    sender.close()
    return sender


def test_malformed_bodies_are_refused_in_the_apis_form(server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(1, "malformed bodies", "no 5xx, each refusal in the API's form")
    time_ = figures.begin(1, "malformed bodies: time of a refusal", "p99 < 50 ms")
    num_bodies, rng = trials(200, 200, "PENSIEVE_FAULTS_BODIES", long=10_000), random.Random(1)
    bodies = ((rng.choice(PATHS), mutate(rng)) for _ in range(num_bodies))
    with server.undisturbed(figures, 1, "malformed bodies"):
        sender = send_all(server, bodies)
    slow_s = statistics.quantiles(sender.refusal_s, n=100)[98]
    time_.note(f"{1000 * slow_s:.0f} ms", slow_s < 0.05)
    assert sender.statuses[400] > num_bodies / 4
    told = f"{count_told(num_bodies, 10_000)} bodies: {told_of(sender)}"
    figure.check(told, not sender.wrong)


def told_of(sender: Sender) -> str:
    """Return how many answers had which status, and the first that was wrong."""
    counts = ", ".join(f"{count:,} with {status}" for status, count in sorted(sender.statuses.items()))
    return "; ".join([counts, *(f"wrong: {one}" for one in sender.wrong[:1])])


def body(**fields: Any) -> bytes:
    """Return a request with those fields beside or in place of the ordinary ones."""
    return json.dumps(BODY | {"messages": [{"role": "user", "content": "Hi"}]} | fields).encode()


def nested(depth: int) -> list[bytes]:
    """Return bodies with that many lists or objects in one another, in places where any value may stand."""
    lists, records = b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth
    schema = b'{"type":"object","properties":{"a":' * depth + b"{}" + b"}}" * depth
    call = {"type": "tool_use", "id": "t", "name": "f", "input": "@"}
    tools = body(tools=[{"name": "f", "input_schema": "@"}])
    calls = body(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}])
    return [
        lists,
        body(messages="@").replace(b'"@"', lists),
        body(zzz="@").replace(b'"@"', records),
        tools.replace(b'"@"', schema),
        tools.replace(b'"@"', records),
        calls.replace(b'"@"', records),
    ]


def test_nesting_is_read_or_refused(server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(5, "nesting to 100,000 in bodies, schemas, inputs", "read or refused; no 5xx")
    bodies = [(path, raw) for depth in DEPTHS for raw in nested(depth) for path in PATHS]
    with server.undisturbed(figures, 5, "nesting"):
        sender = send_all(server, bodies)
    assert sender.statuses[400] >= len(bodies) // 4
    figure.check(told_of(sender), not sender.wrong)


def hostile_tools() -> dict[str, list[dict[str, Any]]]:
    """Return sets of tools that no client should send."""
    tool = {"name": "f", "description": "d", "input_schema": SCHEMA}
    loop = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"$ref": "#/$defs/a"}},
    }
    tree = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}
    wide = SCHEMA | {"properties": {f"p{n}": {} for n in range(2000)}}
    slow = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+(b|b)*$"}}}
    return {
        "10,000 tools": [tool | {"name": f"f{n}"} for n in range(10_000)],
        "a description of 5 MB": [tool | {"description": "word " * 10**6}],
        "one name twice": [tool, tool],
        **{f"the name {name[:20]!r}": [tool | {"name": name}] for name in ODD_NAMES},
        "a $ref to itself": [tool | {"input_schema": loop}],
        "a $ref to the whole": [tool | {"input_schema": tree}],
        "a pattern": [tool | {"input_schema": slow}],
        "a pattern that is none": [
            tool | {"input_schema": json.loads(json.dumps(slow).replace("^(a+)+", "(("))}
        ],
        **({"2,000 properties": [tool | {"input_schema": wide}]} if LONG else {}),  # read as a long prompt
    }


def test_hostile_tools_are_served_or_refused(server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(
        6, "10,000 tools, 5 MB of description, odd names, $refs, patterns", "served or refused"
    )
    time_ = figures.begin(6, "the same: time", "< 1 s each")
    bodies = [(PATHS[0], body(tools=tools)) for tools in hostile_tools().values()]
    with server.undisturbed(figures, 6, "hostile tools"):
        sender = send_all(server, bodies)
    time_.note(f"at most {max(sender.seconds):.1f} s", max(sender.seconds) < 1)
    figure.check(told_of(sender), not sender.wrong)


def odd_texts() -> list[bytes]:
    """Return bodies in other encodings, and with characters that some software cannot bear."""
    content = body(messages=[{"role": "user", "content": "@"}])
    marked = body(messages=[{"role": "user", "content": "é" + "\u0301" * COMBINED}])
    texts = [b"\\u0000", b"\\ud83d", b"\\udc00\\ud83d", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\\uffff"]
    texts += [mark.encode() for mark in MARKS] + ["e\u0301\u200d\u202e\ufeff".encode(), b"\xf4\x90\x80\x80"]
    whole = content.decode()
    encoded = [whole.encode(name) for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7")]
    return [*(content.replace(b"@", text) for text in texts), *encoded, marked]


def test_odd_characters_are_read_or_refused(server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(
        7, "other encodings, NUL, lone surrogates, 10^6 marks", "read or refused; answers in UTF-8"
    )
    with server.undisturbed(figures, 7, "odd characters"):
        sender = send_all(server, [(path, raw) for raw in odd_texts() for path in PATHS])
    figure.check(told_of(sender), not sender.wrong)


@pytest.fixture(scope="module")
def max_context(server: WatchedServer) -> int:
    """Tokens of the server's context."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ALLOWED_S)
    connection.request("GET", "/health")
    told = json.loads(connection.getresponse().read())
    connection.close()
    return int(told["max_context"])


def test_prompts_beyond_the_context_are_refused(
    server: WatchedServer, figures: Figures, max_context: int
) -> None:
    asked = "400, `prompt is too long: N tokens > M maximum`, no KV held"
    figure = figures.begin(8, "prompts of 1 to 10 times the context", asked)
    time_ = figures.begin(8, "prompts of 1 to 10 times the context: time", "< 2 s")
    text = 10 * words(random.Random(8), 3 * max_context)
    messages: list[str] = []
    sender = Sender(server.port)

    def send(num_characters: int, path: str) -> dict[str, Any]:
        return sender.send(body(messages=[{"role": "user", "content": text[:num_characters]}]), path)

    with server.undisturbed(figures, 8, "prompts beyond the context"):
        rate = max_context / send(max_context, PATHS[1])["input_tokens"]
        for factor in (1.001, 1.5, 3, 10):
            told = send(int(factor * rate * max_context), PATHS[0])
            messages.append(told.get("error", {}).get("message", ""))
        assert server.look().blocks_held == 0
        sender.close()
    end = f"> {max_context - 1} maximum"
    good = sum(one.startswith("prompt is too long: ") and end in one for one in messages)
    time_.note(f"at most {max(sender.seconds):.1f} s", max(sender.seconds) < 2)
    figure.check(f"{good} of {len(messages)}; {messages[0]}", good == len(messages))
