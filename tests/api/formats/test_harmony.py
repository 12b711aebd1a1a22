"""gpt-oss's format, from its tokens to the client."""

import random
from typing import Any

import pytest

from pensieve.api.formats import harmony
from pensieve.api.formats.detokenizer import WindowDetokenizer
from pensieve.api.formats.harmony import HarmonyText

from ...fakes import ByteTokenizer, Script
from ..conftest import Server, StartServer
from ..templates import MESSAGES_WITH_HEADERS

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Yes."
ARGUMENTS = '{"command": "ls <|x|> a < b"}'
CALLS = [
    f"<|start|>assistant<|channel|>commentary to=functions.Bash <|constrain|>json<|message|>{ARGUMENTS}",
    f"<|start|>assistant to=functions.Bash<|channel|>commentary json<|message|>{ARGUMENTS}",
]
BASH: Any = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(tokenizer=ByteTokenizer(MESSAGES_WITH_HEADERS, tool_parser=None, harmony=True))


def ask(server: Server, *texts: str, stream: bool = False, **options: Any) -> Any:
    """Answer with the texts, one for each request that follows from this one."""
    tokens = [server.tokenizer.encode(text) for text in texts]
    server.scheduler.play(*(Script([part[i : i + 5] for i in range(0, len(part), 5)]) for part in tokens))
    hello = {"role": "user", "content": "Hi"}
    fields: dict[str, Any] = {"model": "default", "max_tokens": 500, "messages": [hello]} | options
    if not stream:
        return server.sdk().messages.create(**fields)
    with server.sdk().messages.stream(**fields) as events:
        return events.get_final_message()


def blocks(message: Any) -> list[Any]:
    return [
        block.text if block.type == "text" else block.thinking if block.type == "thinking" else block.input
        for block in message.content
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_channels_become_blocks(server: Server, stream: bool) -> None:
    message = ask(server, THOUGHT + FINAL, stream=stream)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert blocks(message) == ["Hm.", "Yes."]
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_message_to_a_function_becomes_a_call(server: Server, stream: bool, call: str) -> None:
    message = ask(server, THOUGHT + call, stream=stream, tools=[BASH])
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert (message.content[1].name, message.content[1].input) == ("Bash", {"command": "ls <|x|> a < b"})
    assert message.stop_reason == "tool_use"
    assert "// Runs\ntype Bash" in server.prompt_text()


def test_words_before_a_call_are_text(server: Server) -> None:
    words = "<|channel|>commentary<|message|>Let me look.<|end|>"
    assert blocks(ask(server, words + CALLS[0], tools=[BASH]))[0] == "Let me look."


def test_two_messages_of_words_are_two_paragraphs(server: Server) -> None:
    words = "<|channel|>commentary<|message|>I looked.<|end|>"
    assert blocks(ask(server, words + FINAL)) == ["I looked.\n\nYes."]


def test_a_budget_closes_the_thoughts_and_leaves_the_next_step_open(server: Server) -> None:
    """The tags are several tokens each."""
    thoughts = "<|channel|>analysis<|message|>abcdefgh"
    thinking = {"type": "enabled", "budget_tokens": 4}
    message = ask(server, thoughts, "<|channel|>final<|message|>Yes.", thinking=thinking)
    assert blocks(message) == ["abcd", "Yes."]
    prompt = server.prompt_text()
    assert prompt.endswith("<|channel|>analysis<|message|>abcd<|end|><|start|>assistant")


def test_a_bare_completion_shows_everything(server: Server) -> None:
    server.scheduler.play(Script([server.tokenizer.encode(THOUGHT + FINAL)]))
    assert (
        server.openai().completions.create(model="default", prompt="Hi", max_tokens=99).choices[0].text
        == THOUGHT + FINAL
    )


@pytest.mark.parametrize("size", [1, 4, 500])
def test_text_that_keeps_to_no_format_is_not_lost(size: int) -> None:
    tokenizer = ByteTokenizer(harmony=True)
    for text in ("no header at all", "x" * 600 + "<|end|>y"):
        reader = HarmonyText(WindowDetokenizer(tokenizer.decode), harmony.find_marks(tokenizer))
        tokens = tokenizer.encode(text)
        parts = [reader.add(tokens[i : i + size]) for i in range(0, len(tokens), size)]
        assert "".join([*parts, reader.flush()]).replace("<|end|>", "") == text.replace("<|end|>", "")


def random_answer(rng: random.Random) -> str:
    parts = [
        "x" * 480,
        THOUGHT,
        FINAL,
        *CALLS,
        *special_tokens(),
        "Grüße < <| ",
        "analysis",
        "to=functions.Bash",
        "\n",
    ]
    return "".join(rng.choice(parts) for _ in range(rng.randint(0, 8)))


def special_tokens() -> list[str]:
    return [harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.END, harmony.CALL, "<|st", "<|"]


def test_the_text_does_not_depend_on_how_the_tokens_come() -> None:
    tokenizer, rng = ByteTokenizer(harmony=True), random.Random(1)
    for _ in range(500):
        tokens = tokenizer.encode(random_answer(rng))
        texts = set()
        for size in (1, 2, 7, 1000):
            reader = HarmonyText(WindowDetokenizer(tokenizer.decode), harmony.find_marks(tokenizer))
            parts = [reader.add(tokens[i : i + size]) for i in range(0, len(tokens), size)]
            texts.add("".join([*parts, reader.flush()]))
        assert len(texts) == 1


def test_other_tokenizers_are_left_alone() -> None:
    assert not harmony.is_harmony(ByteTokenizer())
