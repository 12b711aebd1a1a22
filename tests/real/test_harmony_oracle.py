"""gpt-oss's messages as OpenAI's own library writes and reads them: read alike here, and allowed."""

import asyncio
import base64
import importlib
import json
import random
import sys
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pensieve.api.answer_options import answer_options
from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.model_format import ModelFormat
from pensieve.api.formats.output_events import TextDelta, ThinkingDelta
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.constraint_factory import ConstraintFactory, open_constraint_factory
from pensieve.api.output.parser import OutputParser
from pensieve.api.schema import MessagesRequest

from ..api.builders import make_format
from ..api.output.parsing import merge, shape
from ..budget import trials
from .templates_on_disk import REASON, data_folder, read_template, wrap

TEMPLATE = "openai-gpt-oss-120b"
TOKENIZER = data_folder() / "tokenizers" / "gptoss" / "tokenizer.json"
TOOL = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ARGUMENTS = ['{"city": "Paris"}', '{ "city" : "<|end|> é😀" }', '{\n  "city": "a\\nb <|call|>"\n}']
WORDS = ["Let me look.", "Grüße 😀 {", "`to=functions.get_weather`"]
START = "<|start|>assistant"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (data_folder() / "openai_harmony").exists(), reason=REASON),
]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library's encoding; its vocabulary is that of the fetched tokenizer, whose hash it checks."""
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabulary = json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    ranked = sorted(vocabulary.items(), key=lambda item: item[1])
    lines = [
        f"{base64.b64encode(bytes(byte_of[char] for char in text)).decode()} {rank}\n"
        for text, rank in ranked
    ]
    (folder / "o200k_base.tiktoken").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(folder))
        patch.setattr(sys, "path", [str(data_folder()), *sys.path])
        library: Any = importlib.import_module("openai_harmony")
        yield library, library.load_harmony_encoding(library.HarmonyEncodingName.HARMONY_GPT_OSS)


@pytest.fixture(scope="module")
def model() -> tuple[ModelFormat, ConstraintFactory]:
    wrapper: Any = PreTrainedTokenizerFast  # carries no types
    fast = wrapper(tokenizer_file=str(TOKENIZER))
    fast.chat_template = read_template(TEMPLATE)
    model_format = make_format(wrap(fast))
    marks = model_format.special_tokens
    factory = open_constraint_factory(model_format, [marks["<|return|>"], marks["<|call|>"]])
    assert factory is not None
    return model_format, factory


def draw_answer(rng: random.Random) -> list[str]:
    """Draw the messages of an answer, each with its ending."""
    messages = []
    if rng.random() < 0.7:
        messages.append(f"<|channel|>analysis<|message|>{rng.choice(WORDS)}<|end|>")
    if rng.random() < 0.3:
        messages.append(f"<|channel|>commentary<|message|>{rng.choice(WORDS)}<|end|>")
    if rng.random() < 0.3:
        messages.append(f"<|channel|>final<|message|>{rng.choice(WORDS)}<|return|>")
    else:
        channel, kind = (
            rng.choice(["commentary", "analysis"]),
            rng.choice(["", " json", " <|constrain|>json"]),
        )
        name = " to=functions.get_weather"
        head = rng.choice([f"<|channel|>{channel}{name}{kind}", f"{name}<|channel|>{channel}{kind}"])
        messages.append(f"{head}<|message|>{rng.choice(ARGUMENTS)}<|call|>")
    return messages


def meaning(messages: list[Any]) -> list[object]:
    """Return what the library has read as the events that it means."""
    found: list[object] = []
    for message in messages:
        text = message.content[0].text
        if (message.recipient or "").startswith("functions."):
            found.append((message.recipient.removeprefix("functions."), json.loads(text)))
        elif message.channel == "analysis":
            found.append(ThinkingDelta(text))
        elif found and isinstance(found[-1], TextDelta):
            found[-1] = TextDelta(f"{found[-1].text}\n\n{text}")
        else:
            found.append(TextDelta(text))
    return found


def spoken(encoding: Any, answer: str) -> list[int]:
    """Encode an answer; special tokens stand in no arguments."""
    head, brace, rest = answer.partition("<|message|>{")
    body, call, _ = rest.rpartition("<|call|>")
    if not call:
        return list(encoding.encode(answer, allowed_special="all"))
    tokens = encoding.encode(f"{head}<|message|>", allowed_special="all")
    tokens += encoding.encode(brace[-1] + body, disallowed_special=())
    return [*tokens, *encoding.encode(call, allowed_special="all")]


def test_answers_are_read_as_the_library_reads_them(oracle: Any, model: Any) -> None:
    library, encoding = oracle
    model_format, factory = model
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}], "tools": [TOOL]}
    options = answer_options(MessagesRequest.model_validate(body))
    spec = asyncio.run(factory.spec(options))
    tools = [template_tool(tool) for tool in options.tools]
    answer_format = AnswerFormat(
        tool_format=model_format.tool_calls, tools=tools, thinking=model_format.thinking
    )
    rng = random.Random(1)
    for _ in range(trials(20, 200)):
        tokens = spoken(encoding, START.join(draw_answer(rng)))
        read = encoding.parse_messages_from_completion_tokens(tokens, library.Role.ASSISTANT)
        parser = OutputParser(model_format.new_message_detokenizer(), answer_format)
        events = [event for token in tokens[:-1] for event in parser.feed([token])] + parser.finish()
        assert shape(merge(events)) == meaning(read)
        constraint = spec.constraint(False, b"")
        for place, token in enumerate(tokens):
            mask = constraint.mask()
            assert mask is None or mask[token // 8] >> token % 8 & 1, encoding.decode(tokens[: place + 1])
            assert constraint.accept(token)


def test_calls_that_the_library_writes_are_allowed(oracle: Any, model: Any) -> None:
    library, encoding = oracle
    call = library.Message.from_role_and_content(library.Role.ASSISTANT, ARGUMENTS[0])
    call = call.with_channel("commentary").with_recipient("functions.get_weather")
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}], "tools": [TOOL]}
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        options = answer_options(MessagesRequest.model_validate(body | {"tool_choice": choice}))
        spec = asyncio.run(model[1].spec(options))
        for kind in ("json", "<|constrain|>json", "code"):
            tokens = encoding.render(call.with_content_type(kind))
            begin = encoding.encode(START, allowed_special="all")
            assert tokens[: len(begin)] == begin
            constraint = spec.constraint(False, b"")
            assert all(constraint.accept(token) for token in tokens[len(begin) :]), encoding.decode(tokens)
