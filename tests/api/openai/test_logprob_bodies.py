"""Log-probabilities through OpenAI's SDK, as a stream and whole."""

from typing import Any

import openai
import pytest

from pensieve.api.formats.token_bytes import TokenBytes

from ...fakes import ByteTokenizer, FakeModel, made_up_logprobs
from .. import tokenizers
from ..conftest import Server, StartServer
from ..exchange import CALL
from .exchange import BASH, HELLO

TEXT = "Grüße < 😀"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server whose tokens are parts of characters."""
    return start_server(tokenizer=tokenizers.qwen(), model=FakeModel(vocab_size=10_000))


def chat(server: Server, text: str, size: int = 3, **fields: Any) -> tuple[Any, Any]:
    """Ask for a whole answer and for a stream of the same."""
    server.scheduler.play(server.script(text, size))
    options: Any = {"model": "default", "messages": HELLO, "logprobs": True} | fields
    whole = server.openai().chat.completions.create(**options).choices[0]
    with server.openai().chat.completions.stream(**options) as stream:
        streamed = stream.get_final_completion().choices[0]
    return whole, streamed


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("likeliest", [None, 0, 3, 20])
def test_every_token_of_a_chat_has_its_logprob(server: Server, size: int, likeliest: int | None) -> None:
    fields = {} if likeliest is None else {"top_logprobs": likeliest}
    whole, streamed = chat(server, TEXT, size, **fields)
    assert whole.message.content == streamed.message.content == TEXT
    assert streamed.logprobs.content == whole.logprobs.content
    entries = whole.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries) == TEXT.encode()
    assert server.scheduler.requests[0].sampling.logprobs == (likeliest or 0)
    texts = TokenBytes(server.tokenizer)
    for entry, token in zip(entries, server.tokenizer.encode(TEXT), strict=True):
        score = made_up_logprobs(token, likeliest or 0)
        assert entry.logprob == pytest.approx(score.logprob)
        assert [top.logprob for top in entry.top_logprobs] == [logprob for _, logprob in score.top]
        assert [bytes(top.bytes) for top in entry.top_logprobs] == [texts.bytes_of(t) for t, _ in score.top]


def test_thoughts_and_calls_have_none(start_server: StartServer) -> None:
    server = start_server(tokenizer=ByteTokenizer(thinks=True))
    whole, streamed = chat(server, f"<think>Hm.</think>Look: {CALL}", tools=[BASH])
    for choice in (whole, streamed):
        assert "".join(entry.token for entry in choice.logprobs.content) == "Look: "
        assert choice.message.tool_calls[0].function.name == "Bash"


def test_without_being_asked_for_there_are_none(server: Server) -> None:
    server.scheduler.play(server.script("Hi"))
    completion = server.openai().chat.completions.create(model="default", messages=HELLO)
    assert completion.choices[0].logprobs is None
    assert server.scheduler.requests[0].sampling.logprobs is None


@pytest.mark.parametrize("size", [1, 4])
def test_a_completion_has_lists_and_offsets(server: Server, size: int) -> None:
    server.scheduler.play(server.script(TEXT, size))
    options: Any = {"model": "default", "prompt": "Hi", "max_tokens": 99, "logprobs": 2}
    whole = server.openai().completions.create(**options).choices[0]
    chunks = [chunk.choices[0] for chunk in server.openai().completions.create(**options, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [getattr(chunk.logprobs, name) for chunk in chunks if chunk.logprobs]
        assert [entry for part in parts for entry in part] == getattr(whole.logprobs, name)
    assert "".join(chunk.text for chunk in chunks) == whole.text == TEXT
    names, offsets = whole.logprobs.tokens, whole.logprobs.text_offset
    assert any(name.startswith("bytes:\\x") for name in names)  # the emoji is several tokens
    assert {len(likeliest) for likeliest in whole.logprobs.top_logprobs} == {2}
    for name, start in zip(names, offsets, strict=True):
        assert name.startswith("bytes:") or TEXT.startswith(name, start)


def test_a_stop_sequence_ends_the_list_as_well(server: Server) -> None:
    server.scheduler.play(server.script("one STOP two", size=100))
    options: Any = {"model": "default", "prompt": "Hi", "max_tokens": 99, "logprobs": 0, "stop": "S"}
    choice = server.openai().completions.create(**options).choices[0]
    assert (choice.text, "".join(choice.logprobs.tokens)) == ("one ", "one ")


@pytest.mark.parametrize(
    ("route", "fields", "message"),
    [
        ("chat", {"top_logprobs": 3}, "needs logprobs"),
        ("chat", {"logprobs": True, "top_logprobs": 21}, "less than or equal to 20"),
        ("chat", {"logprobs": True, "top_logprobs": -1}, "greater than or equal to 0"),
        ("text", {"logprobs": 6}, "less than or equal to 5"),
        ("text", {"logprobs": True}, "valid integer"),
    ],
)
def test_more_than_there_is_to_have_is_refused(
    server: Server, route: str, fields: dict[str, Any], message: str
) -> None:
    client = server.openai()
    create: Any = client.chat.completions.create if route == "chat" else client.completions.create
    asked = {"messages": HELLO} if route == "chat" else {"prompt": "Hi"}
    with pytest.raises(openai.BadRequestError, match=message):
        create(model="default", **asked, **fields)


@pytest.mark.parametrize("name", ["qwen", "llama_3", "phi_3", "llama_2", "demo"])
def test_the_bytes_of_single_tokens_join_to_the_text(name: str) -> None:
    tokenizer = getattr(tokenizers, name)()
    texts = TokenBytes(tokenizer)
    tokens = tokenizer.encode("Grüße 😀 你好 a  b\n", add_special_tokens=False)
    joined = b"".join(map(texts.bytes_of, tokens)).decode()
    assert joined.strip() == "Grüße 😀 你好 a  b"
