"""A stream, put together again, is the whole answer: for any tokens, in any chunks, in both APIs.

PENSIEVE_RANDOM_ANSWERS says how many random answers are tried; 10,000 take half a minute.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.detokenizer import Detokenizer, WindowDetokenizer
from pensieve.api.formats.output_events import TextDelta, call_input
from pensieve.api.formats.thinking_tags import ThinkingTags
from pensieve.api.formats.tool_calls.plain_format import plain_format
from pensieve.api.formats.tool_calls.tool_format import ToolFormat
from pensieve.api.metrics import Metrics
from pensieve.api.openai.chunks import ChatBodyBuilder, ChatStreamWriter
from pensieve.api.output.answer import Answer, SampledAnswer
from pensieve.api.output.answer_reader import AnswerReader
from pensieve.api.output.message_events import MessageBodyBuilder, MessageStreamWriter
from pensieve.api.output.parser import OutputParser
from pensieve.api.output.request_record import RequestRecord
from pensieve.api.output.stream import BodyBuilder
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.sequence import FinishReason, Request

from ...budget import trials
from ...fakes import ByteTokenizer, FakeModel, Script, ScriptedScheduler, ScriptedTokenStream
from .. import tokenizers
from ..builders import make_detokenizer_factory
from ..formats.tool_calls.call_texts import BODIES, READ, WRITE
from ..formats.tool_calls.known_formats import tool_format

NUM_ANSWERS = trials(120, 600, "PENSIEVE_RANDOM_ANSWERS")
STOPS = ("STOP", "ST", "\n\n.", "</tool", "ß")
FINISHES: list[FinishReason] = ["stop", "length"]

Chunks = list[list[int]]


@cache
def make_detokenizer(name: str) -> Callable[[], Detokenizer]:
    tokenizer = tokenizer_of(name)
    if isinstance(tokenizer, ByteTokenizer):
        return lambda: WindowDetokenizer(tokenizer.decode)
    return make_detokenizer_factory(tokenizer)


@cache
def tokenizer_of(name: str) -> Any:
    return ByteTokenizer(thinks=True) if name == "bytes" else getattr(tokenizers, name)()


@cache
def formats() -> dict[str, ToolFormat]:
    return {"plain": plain_format(), **{name: tool_format(name) for name in BODIES}}


def random_format(rng: random.Random) -> tuple[str, AnswerFormat]:
    name = rng.choice(["plain", "plain", "json_tools", *BODIES])
    answer_format = AnswerFormat(
        stop_sequences=rng.sample(STOPS, rng.choice([0, 0, 1, 3])),
        tool_format=formats()[name],
        tools=rng.choice([[WRITE, READ], [WRITE]]),
        thinking=rng.choice(
            [
                None,
                ThinkingTags("<think>", "</think>"),
                ThinkingTags("<|channel>", "<channel|>", label="thought\n"),
            ]
        ),
        one_call=rng.random() < 0.2,
    )
    if rng.random() < 0.2:
        answer_format = replace(answer_format, tool_format=None)
    return name, replace(
        answer_format, starts_thinking=answer_format.thinking is not None and rng.random() < 0.3
    )


def random_text(rng: random.Random, name: str, answer_format: AnswerFormat) -> str:
    """Write a part of an answer: words in several scripts, calls whole and damaged, tags, parts of tags."""
    form, thinking = formats()[name], answer_format.thinking
    thinking_tags = (thinking.start, thinking.end) if thinking else ()
    tags = [form.start, form.end or form.start, *thinking_tags, *STOPS]
    tag = rng.choice(tags)
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(
            [
                "Grüße, ",
                "你好世界",
                "😀👩‍👩‍👧",
                "naïve\r\n",
                " \n\n ",
                "مرحبا",
                '"quoted\\"',
                "a < b {x: [1]}",
                "\x00",
            ]
        )
    if kind == 2:
        return str(tag)
    if kind == 3:
        return str(tag[: rng.randint(1, len(tag))])
    body = BODIES["json_tools" if name == "plain" else name](rng.choice(["Write", "Read", "Delete"]))
    if kind == 4:
        body = body.replace(
            "one", rng.choice([form.end, "\n\t", "\\ud83d", "\\ud83d\\ude00", "é 你", "<think>", "ST"])
        )
    if kind == 5:
        start, length = rng.randrange(len(body)), rng.randint(1, 20)
        body = (
            body[:start]
            + rng.choice(["", body[start : start + length] * 2, '"', "}", "NaN"])
            + body[start + length :]
        )
    return form.start + body + (form.end if kind != 6 else "")


def random_tokens(rng: random.Random, name: str, answer_format: AnswerFormat, tokenizer: Any) -> list[int]:
    """Mix texts with tokens drawn blindly, which may be halves of characters."""
    tokens: list[int] = []
    for _ in range(rng.randint(0, 6)):
        tokens += tokenizer.encode(random_text(rng, name, answer_format), add_special_tokens=False)
        if rng.random() < 0.3:
            tokens += [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 4))]
        if tokens and rng.random() < 0.1:
            del tokens[rng.randrange(len(tokens))]
    return tokens


def split(rng: random.Random, tokens: list[int]) -> Chunks:
    chunks, start = [], 0
    while start < len(tokens):
        size = rng.choice([1, 1, 2, 5, 40])
        chunks.append(tokens[start : start + size])
        start += size
    return chunks


async def stream(answer: Answer, writer: MessageStreamWriter | ChatStreamWriter) -> str:
    text = writer.start(answer.usage)
    async for events in answer:
        text += writer.events(events)
    return text + writer.end(answer)


async def whole(answer: Answer, writer: BodyBuilder) -> dict[str, Any]:
    async for events in answer:
        writer.add(events)
    return writer.message(answer)


def events(text: str) -> Iterator[dict[str, Any]]:
    for event in text.removesuffix("\n\n").split("\n\n"):
        line = event.rpartition("data: ")[2]
        if line != "[DONE]":
            yield json.loads(line)


def put_together(text: str) -> dict[str, Any]:
    """Build the message that a client builds of a stream's events, and check their order."""
    message: dict[str, Any] = {}
    block: dict[str, Any] | None = None
    fragments: list[str] = []
    for event in events(text):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert block is None
                assert event["index"] == len(message["content"])
                block, fragments = event["content_block"], []
                message["content"].append(block)
            case "content_block_delta":
                assert block is not None
                add_delta(block, event["delta"], fragments)
            case "content_block_stop":
                assert block is not None
                if block["type"] == "tool_use":
                    block["input"] = call_input(fragments)
                block = None
            case "message_delta":
                assert block is None
                message |= event["delta"] | {"usage": event["usage"]}
    return message


def add_delta(block: dict[str, Any], delta: dict[str, Any], fragments: list[str]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            fragments.append(delta["partial_json"])


def put_chat_together(text: str) -> dict[str, Any]:
    """Build the message that a client builds of a chat's chunks."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for chunk in events(text):
        (choice,) = chunk["choices"]
        for key in ("content", "reasoning_content"):
            message[key] += choice["delta"].get(key) or ""
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] == len(message["tool_calls"]):
                message["tool_calls"].append({"name": call["function"]["name"], "arguments": ""})
            message["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        message["finish_reason"] = choice["finish_reason"]
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Take out what is random, and the usage: of a chunk that holds an answer's end, all tokens count."""
    content = [block | {"id": ""} if block["type"] == "tool_use" else block for block in message["content"]]
    return message | {"id": "", "content": content, "usage": None}


class Lab:
    """Makes the same answer again and again, in chunks of other sizes."""

    def __init__(self) -> None:
        self._metrics = Metrics(FakeModel(), ScriptedScheduler().stats)

    def answer(self, name: str, chunks: Chunks, finish: FinishReason, answer_format: AnswerFormat) -> Answer:
        request = Request([1], SamplingParams(), 10_000, frozenset())
        token_stream = ScriptedTokenStream(request, Script(chunks, finish=finish))
        record = RequestRecord(request, token_stream, self._metrics, 0.0)
        parser = OutputParser(make_detokenizer(name)(), answer_format)
        return SampledAnswer(AnswerReader(token_stream, parser), record)


@pytest.mark.parametrize("name", ["qwen", "llama_3", "phi_3", "llama_2", "demo", "bytes"])
def test_a_stream_is_the_whole_answer_for_any_tokens_in_any_chunks(name: str) -> None:
    lab, tokenizer = Lab(), tokenizer_of(name)
    num_calls = 0
    with asyncio.Runner() as runner:
        for seed in range(NUM_ANSWERS // 6 + 1):
            rng = random.Random(f"{name} {seed}")
            kind, answer_format = random_format(rng)
            tokens = random_tokens(rng, kind, answer_format, tokenizer)
            finish, omit = rng.choice(FINISHES), rng.random() < 0.2
            once = [tokens] if tokens else []

            def answer(
                chunks: Chunks, finish: FinishReason = finish, answer_format: AnswerFormat = answer_format
            ) -> Answer:
                return lab.answer(name, chunks, finish, answer_format)

            message = runner.run(whole(answer(once), MessageBodyBuilder("m", omit)))
            by_chunks = runner.run(stream(answer(split(rng, tokens)), MessageStreamWriter("m", omit)))
            assert without_ids(put_together(by_chunks)) == without_ids(message), (name, seed)

            chat = runner.run(whole(answer(once), ChatBodyBuilder("m")))["choices"][0]
            chunks = put_chat_together(
                runner.run(stream(answer(split(rng, tokens)), ChatStreamWriter("m", False)))
            )
            assert chunks["content"] == (chat["message"]["content"] or ""), (name, seed)
            assert chunks["reasoning_content"] == chat["message"].get("reasoning_content", ""), (name, seed)
            calls = [call["function"] for call in chat["message"].get("tool_calls", ())]
            assert (chunks["tool_calls"], chunks["finish_reason"]) == (calls, chat["finish_reason"]), (
                name,
                seed,
            )
            num_calls += len(calls)
    assert num_calls > NUM_ANSWERS // 20


@pytest.mark.parametrize("name", ["qwen", "llama_3", "phi_3", "llama_2", "demo", "bytes"])
def test_text_has_no_replacement_characters_but_for_bytes_that_are_no_text(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for seed in range(NUM_ANSWERS // 6 + 1):
        rng = random.Random(f"{name} {seed}")
        tokens = random_tokens(rng, "plain", AnswerFormat(), tokenizer)
        parser = OutputParser(make_detokenizer(name)(), AnswerFormat())
        events = [event for chunk in split(rng, tokens) for event in parser.feed(chunk)] + parser.finish()
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        text.encode()  # no halves of characters
        assert ("\ufffd" in text) == ("\ufffd" in tokenizer.decode(tokens)), (name, seed)
