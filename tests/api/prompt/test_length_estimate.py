"""Texts that are far too long are refused before they are rendered and tokenised, all others are not."""

import http.client
import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.prompt.length_estimate import FITTING_CHARS, MARGIN, PIECE_CHARS, check_texts
from pensieve.scheduler.exceptions import PromptTooLong

from ...budget import trials
from ...fakes import ByteTokenizer, FakeModel
from ..conftest import StartServer, wait_until

MAX_TOKENS = 1000

JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=20,
)


def words(text: str) -> list[int]:
    return [0] * len(text.split())


@settings(max_examples=trials(20, 100))
@given(JSON, st.integers(0, 2 * MAX_TOKENS))
def test_only_texts_of_far_more_tokens_are_refused(value: object, num_words: int) -> None:
    content = [value, {"role": "user", "content": "longish " * num_words}]
    refused = None
    try:
        check_texts(content, words, MAX_TOKENS)
    except PromptTooLong as error:
        refused = error
    assert num_words <= MARGIN * MAX_TOKENS or refused is not None
    assert num_words > 0.9 * MAX_TOKENS or refused is None


def test_the_whole_is_estimated_from_the_part_that_was_read() -> None:
    read = []

    def encode(text: str) -> list[int]:
        read.append(text)
        return [0] * (len(text) // 4)

    with pytest.raises(PromptTooLong) as caught:
        check_texts({"text": "x" * 4_000_000}, encode, MAX_TOKENS)
    assert caught.value.num_tokens == pytest.approx(1_000_000, rel=0.01)
    assert len(read) == 1
    assert len(read[0]) == PIECE_CHARS


def test_few_characters_are_not_read() -> None:
    check_texts("x" * FITTING_CHARS * MAX_TOKENS, lambda _: pytest.fail("read"), MAX_TOKENS)


@pytest.mark.parametrize("route", ["messages", "completions"])
def test_such_a_prompt_is_refused_and_counted_about(start_server: StartServer, route: str) -> None:
    server = start_server(model=FakeModel(max_context=1000))
    text = "x" * 1_000_000
    messages = [{"role": "user", "content": text}]
    prompt = {"messages": messages} if route == "messages" else {"prompt": text}
    body = {"model": "default", "max_tokens": 1, **prompt}
    response = server.http().post(f"/v1/{route}", json=body)
    assert response.status_code == 400
    assert " tokens > 999 maximum" in response.json()["error"]["message"]
    if route == "messages":
        count = server.http().post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
        assert count == pytest.approx(1_000_000, rel=0.01)


def test_a_client_that_leaves_while_its_prompt_is_built_is_not_queued(start_server: StartServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class SlowTokenizer(ByteTokenizer):
        is_slow = False

        def encode(self, text: str, /, *, add_special_tokens: bool = False) -> list[int]:
            if self.is_slow:
                begun.set()
                assert go_on.wait(20)
            return super().encode(text, add_special_tokens=add_special_tokens)

    tokenizer = SlowTokenizer()
    server = start_server(tokenizer=tokenizer)
    tokenizer.is_slow = True
    body = {"model": "claude-x", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    client = http.client.HTTPConnection("127.0.0.1", server.port)
    client.request("POST", "/v1/messages", json.dumps(body), {"content-type": "application/json"})
    assert begun.wait(20)
    client.close()
    metrics = server.http()
    wait_until(lambda: 'status="499"' in metrics.get("/metrics").text)
    go_on.set()
    assert server.scheduler.requests == []
