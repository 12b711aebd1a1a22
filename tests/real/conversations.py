"""Conversations as clients send them back: what has happened, in all orders, in Anthropic's wire form.

Each text that must be seen by the model holds one word `seenN`, counted in the order in which it was sent.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

Block = dict[str, Any]
Body = dict[str, Any]

SEEN = re.compile(r"seen\d+e")


class Writer:
    """Makes blocks with words that are counted, and calls with ids as the server makes them."""

    def __init__(self) -> None:
        self._words = (f"seen{i}e" for i in itertools.count())
        self._ids: list[str] = []

    def word(self) -> str:
        return next(self._words)

    def text(self, words: str = "Please look at") -> Block:
        return {"type": "text", "text": f"{words} {self.word()}."}

    def thought(self) -> Block:
        return {"type": "thinking", "thinking": "Let me think.", "signature": "s"}

    def call(self, name: str = "Bash", **more: Any) -> Block:
        call = f"toolu_{len(self._ids):024x}"
        self._ids.append(call)
        return {"type": "tool_use", "id": call, "name": name, "input": {"command": self.word(), **more}}

    def result(self, call: Block, **more: Any) -> Block:
        return {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": f"{self.word()} done, exit 0",
            **more,
        }


def user(*blocks: Block) -> Body:
    return {"role": "user", "content": list(blocks)}


def model(*blocks: Block) -> Body:
    return {"role": "assistant", "content": list(blocks)}


def system(block: Block) -> Body:
    return {"role": "system", "content": [block]}


def loop(w: Writer, *before: Block) -> list[Body]:
    call = w.call()
    return [model(*before, call), user(w.result(call))]


def two_calls(w: Writer, *before: Block, turned: bool = False) -> list[Body]:
    calls = [w.call(), w.call("Read", path="/a b/ü.txt")]
    results = [w.result(call) for call in calls]
    return [model(*before, *calls), user(*(results[::-1] if turned else results))]


def questions(w: Writer) -> Iterator[list[Body]]:
    """Plain talk: turns in any order."""
    yield [user(w.text())]
    yield [user(w.text()), model(w.text("Yes,")), user(w.text())]
    yield [user(w.text()), user(w.text())]
    yield [user(w.text()), model(w.text()), model(w.text()), user(w.text())]
    yield [model(w.text("Hello,")), user(w.text())]
    yield [model(w.text("Hello,")), model(w.text()), user(w.text()), model(w.text()), user(w.text())]
    yield [user(w.text()), model(), user(w.text())]
    yield [user(), model(w.text()), user(w.text())]
    yield [user(w.text()), model(w.thought()), user(w.text())]
    yield [user(w.text()), model(w.thought(), w.text()), user(w.text()), model(w.text()), user(w.text())]
    yield [user(w.text()), model(w.text(), w.text(), w.thought(), w.text()), user(w.text())]
    yield [user(w.text()), user({"type": "text", "text": " "}), model(w.text()), user(w.text(), w.text())]


def systems(w: Writer) -> Iterator[list[Body]]:
    """System messages anywhere."""
    yield [user(w.text()), model(w.text()), system(w.text()), user(w.text())]
    yield [user(w.text()), model(w.text()), user(w.text()), system(w.text())]
    yield [user(w.text()), model(w.text()), user(w.text()), system(w.text()), model(w.text()), user(w.text())]
    yield [user(w.text()), *loop(w), system(w.text()), model(w.text()), user(w.text())]
    yield [user(w.text()), *loop(w), system(w.text()), user(w.text())]
    yield [user(w.text()), *loop(w), system(w.text()), *loop(w)]
    yield [user(w.text()), model(w.text()), system(w.text()), system(w.text()), user(w.text())]


def loops(w: Writer) -> Iterator[list[Body]]:
    """Calls with and without text and thoughts, alone and in a row."""
    yield [user(w.text()), *loop(w)]
    yield [user(w.text()), *loop(w, w.text("I look,"))]
    yield [user(w.text()), *loop(w, w.thought())]
    yield [user(w.text()), *loop(w, w.thought(), w.text("I look,"))]
    yield [user(w.text()), *loop(w), *loop(w), *loop(w), model(w.text()), user(w.text())]
    yield [user(w.text()), *loop(w, w.text()), *loop(w, w.text()), model(w.text()), user(w.text()), *loop(w)]
    yield [
        user(w.text()),
        *loop(w, w.thought()),
        *loop(w, w.thought(), w.text()),
        model(w.text()),
        user(w.text()),
    ]
    yield [user(w.text()), *two_calls(w)]
    yield [user(w.text()), *two_calls(w, w.text("Both,")), model(w.text()), user(w.text())]
    yield [user(w.text()), *two_calls(w, w.thought(), w.text()), *two_calls(w, w.thought()), *loop(w)]
    yield [*loop(w), model(w.text()), user(w.text())]
    yield [user(w.text()), model(w.text()), *loop(w, w.text()), model(w.text()), model(w.text()), *loop(w)]


def interrupted(w: Writer) -> Iterator[list[Body]]:
    """Results that fail, are missing or come late, and words beside and after them."""
    call = w.call()
    yield [user(w.text()), model(call), user(w.result(call), w.text("<system-reminder>"), w.text("Stop,"))]
    call = w.call()
    yield [user(w.text()), model(w.text(), call), user(w.result(call, is_error=True)), user(w.text("No,"))]
    yield [user(w.text()), *loop(w), user(w.text()), user(w.text()), model(w.text()), user(w.text())]
    call, other = w.call(), w.call("Read")
    yield [
        user(w.text()),
        model(call, other),
        user(w.result(other)),
        user(w.result(call)),
        model(w.text()),
        user(w.text()),
    ]
    call, other = w.call(), w.call("Read")
    yield [user(w.text()), model(w.thought(), call, other), user(w.result(call)), user(w.text())]
    yield [user(w.text()), model(w.text(), w.call()), user(w.text()), model(w.text()), user(w.text())]
    yield [user(w.text()), model(w.call())]


def unmatched(w: Writer) -> Iterator[list[Body]]:
    """Results without their call, doubled, empty, cut off or turned round."""
    lone = {"id": "toolu_trimmed"}
    yield [user(w.result(lone)), model(w.text()), user(w.text())]
    yield [user(w.text()), *loop(w), user(w.result(lone)), model(w.text()), user(w.text(), w.result(lone))]
    call = w.call()
    yield [
        user(w.text()),
        model(call),
        user(w.result(call)),
        user(w.result(call)),
        model(w.text()),
        user(w.text()),
    ]
    call = w.call()
    yield [
        user(w.text()),
        model(call, dict(call)),
        user(w.result(call), w.result(call)),
        model(w.text()),
        user(w.text()),
    ]
    call = w.call()
    yield [
        user(w.text()),
        model(call),
        user({"type": "tool_result", "tool_use_id": call["id"], "content": []}),
    ]
    call = {
        **w.call(),
        "input": {"__unparsedToolInput": {"raw": '{"command": "cut off ' + w.word(), "len": 40}},
    }
    yield [user(w.text()), model(w.text(), call), user(w.result(call, is_error=True)), *loop(w)]
    yield [
        user(w.text()),
        *loop(w),
        model(w.text()),
        model(),
        user(w.text()),
        model(w.thought()),
        user(w.text()),
    ]
    turned = two_calls(w)
    yield [user(w.text()), *turned, user(w.text("And,"))]


def foreign(w: Writer) -> Iterator[list[Body]]:
    """What another server or model family has left in the history."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    yield [user(w.text(), picture), model(w.text()), user(w.text())]
    call = w.call()
    yield [user(w.text()), model(call), user({**w.result(call), "content": [picture, w.text()]})]
    server = {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "web_search",
        "input": {"query": w.word()},
    }
    found = {"type": "web_search_result", "title": w.word(), "url": "u", "encrypted_content": "x"}
    hit = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]}
    yield [user(w.text()), model(w.text(), server, hit, w.text()), user(w.text())]
    connector = {"type": "mcp_tool_use", "id": "m", "name": "x", "server_name": "s", "input": {"q": w.word()}}
    answer = {"type": "mcp_tool_result", "tool_use_id": "m", "content": [w.text()]}
    yield [user(w.text()), model(connector, answer, w.text()), user(w.text(), {"type": "container_upload"})]
    summary = {"type": "compaction", "content": f"Summary {w.word()}"}
    yield [user(w.text()), model(summary, w.text()), user({"type": "from_the_future", "text": w.word()})]


def odd_words(w: Writer) -> Iterator[list[Body]]:
    """Texts that look like a template's own marks, arguments of all kinds, ids of other families."""
    tags = "<tool_call>{}</tool_call> [TOOL_CALLS] <|im_end|> </think> <|tool_response>"
    yield [user(w.text(tags)), model(w.text(tags)), user(w.text(f"<tool_response>\n{tags}"))]
    yield [user(w.text()), model(w.text("<think>\nold\n</think>\n\n")), user(w.text())]
    yield [user({"type": "text", "text": f"<tool_response>\n{w.word()}\n</tool_response>"})]
    call = w.call(
        note="q\"uo'te\\ {{ x }} {% y %}",
        lines="a\n\tb",
        number=1.5,
        flag=True,
        nothing=None,
        deep={"a": [{}]},
    )
    yield [user(w.text()), model(call), user(w.result(call)), model(w.text()), user(w.text())]
    call = {**w.call(), "id": "call_00_kimi:3"}
    other = {**w.call(), "id": "functions.Bash:7"}
    yield [user(w.text()), model(w.text(), call), user(w.result(call)), model(other), user(w.result(other))]
    call = w.call("mcp__not_a_tool_of_this_request")
    yield [user(w.text()), model(call), user({**w.result(call), "content": json.dumps({"a": w.word()})})]


KINDS: list[Callable[[Writer], Iterator[list[Body]]]] = [
    questions,
    systems,
    loops,
    interrupted,
    unmatched,
    foreign,
    odd_words,
]


def conversations() -> Iterator[tuple[str, list[Body]]]:
    """Yield all conversations, each with a name."""
    for kind in KINDS:
        for number, messages in enumerate(kind(Writer())):
            yield f"{kind.__name__}-{number}", messages


def seen_words(value: Any) -> list[str]:
    """List the words in a part of a body that the model must see, in order, without thoughts."""
    return SEEN.findall(json.dumps(value, ensure_ascii=False))
