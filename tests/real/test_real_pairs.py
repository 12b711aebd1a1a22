"""Real templates with real tokenizers: marks in content stay text, no prompt begins twice, all is served."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pensieve.engine.loading.model_info import read_model_info
from pensieve.engine.loading.tokenizer import load_tokenizer

from ..api.builders import build_prompt, make_prompt_builder
from ..budget import trials
from ..e2e.conftest import running_server
from .conversations import Writer, loop, model, seen_words, system, user
from .odd_tools import BASH, READ
from .real_pairs import pairs, write_pair

NUM_PAIRS = trials(1, 1, "PENSIEVE_REAL_CASES")
NUM_SERVED = trials(1, 1, "PENSIEVE_REAL_CASES")

pytestmark = pytest.mark.slow


def session(words: str) -> list[dict[str, Any]]:
    """Return a session of calls, interruptions and new words, with `words` in texts, calls and results."""
    w = Writer()
    call = w.call(note=words)
    return [
        user(w.text(words)),
        *loop(w, w.thought(), w.text(words)),
        model(w.text(), call),
        user({**w.result(call), "content": f"{words} {w.word()}"}, w.text("<system-reminder>")),
        user(w.text("Stop,")),
        model(w.text(words)),
        system(w.text()),
        user(w.text()),
    ]


@pytest.mark.parametrize(("template", "tokenizer_name"), pairs(NUM_PAIRS))
def test_marks_in_content_are_text_and_no_prompt_begins_twice(
    template: str, tokenizer_name: str, tmp_path: Path
) -> None:
    info = read_model_info(write_pair(tmp_path, template, tokenizer_name), "m", None, 16)
    tokenizer = load_tokenizer(info)
    builder = make_prompt_builder(tokenizer, info.vocab_size)
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = " ".join(sorted(special)[:40])

    def prompt(words: str) -> list[int]:
        body = {"model": "m", "system": words, "messages": session(words), "tools": [BASH, READ]}
        return build_prompt(builder, body).tokens

    plain, marked = prompt("words"), prompt(marks)
    ids = set(special.values())
    assert [token for token in marked if token in ids] == [token for token in plain if token in ids]
    text = tokenizer.decode(marked)
    assert text.count(marks) >= 4
    assert all(word in text for word in seen_words(session("")))
    if tokenizer.bos_token_id is not None:
        assert marked.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize(("template", "tokenizer_name"), pairs(NUM_SERVED))
def test_a_session_is_served_whatever_has_happened_in_it(
    template: str, tokenizer_name: str, tmp_path: Path
) -> None:
    messages = session("words")
    ends = [end for end, message in enumerate(messages, 1) if message["role"] == "user"]
    cached = []
    with running_server(str(write_pair(tmp_path, template, tokenizer_name))) as url:
        for end in ends:
            body = {"model": "claude-x", "max_tokens": 4, "messages": messages[:end], "tools": [BASH, READ]}
            request = urllib.request.Request(
                f"{url}/v1/messages", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                cached.append(json.load(answer)["usage"]["cache_read_input_tokens"])
    assert cached[0] == 0
    assert all(later > 0 for later in cached[1:])
