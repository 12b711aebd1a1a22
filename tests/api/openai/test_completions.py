"""The route that takes a bare prompt, through OpenAI's SDK."""

from typing import Any

import openai
import pytest

from ..conftest import Server
from ..exchange import CALL


def test_a_completion_goes_on_from_the_bare_prompt(server: Server) -> None:
    """Nothing is added to it, and its marks are marks: whoever uses this route writes the template."""
    server.scheduler.play(server.script(f"{CALL} STOP."))
    create = server.openai().completions.create
    completion = create(model="default", prompt="<|im_start|>user\nHi", max_tokens=500, stop=[" STOP"])
    assert completion.choices[0].text == CALL
    assert (completion.object, completion.choices[0].finish_reason) == ("text_completion", "stop")
    assert server.scheduler.requests[0].prompt == [256, *b"user\nHi"]
    streamed = create(model="default", prompt="Hi", max_tokens=500, stop=" STOP", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == CALL


@pytest.mark.parametrize("prompt", ["Hi", ["Hi"], [72, 105], [[72, 105]]])
def test_a_prompt_may_be_text_or_tokens(server: Server, prompt: Any) -> None:
    server.openai().completions.create(model="default", prompt=prompt)
    assert server.scheduler.requests[0].prompt == [72, 105]
    assert server.scheduler.requests[0].max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (["a", "b"], "more than one prompt"),
        ("", "prompt is empty"),
        ([10**6], "special token"),
        ([-1], "special token"),
    ],
)
def test_prompts_that_cannot_be_are_refused(server: Server, prompt: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        server.openai().completions.create(model="default", prompt=prompt)
