"""Pictures and documents: a note in their place or a refusal, and never silence."""

from typing import Any

import anthropic
import openai
import pytest

from pensieve.api.config import ServerConfig
from pensieve.api.prompt.conversation import template_messages
from pensieve.api.schema import CountTokensRequest

from ..conftest import Server, StartServer

PNG = "iVBORw0KGgo="
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PDF_SOURCE = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
PDF = {"type": "document", "title": "report.pdf", "source": PDF_SOURCE}
NOTE = "[image (image/png) left out: the served model reads text only and cannot see or hear it]"


def shown(*content: dict[str, Any]) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": list(content)}]}
    (message,) = template_messages(CountTokensRequest.model_validate(body))
    return str(message["content"])


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


def result(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(content)}


def test_a_note_stands_where_the_picture_stood() -> None:
    assert shown(text("Before"), PICTURE, text("after")) == f"Before\n{NOTE}\nafter"
    assert shown(result(text("Before"), PICTURE)) == f"Before\n{NOTE}"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/a.png"}}, "[image left out"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "[image left out"),
        (PDF, "Document: report.pdf\n[document (application/pdf) left out"),
        (document(type="url", url="http://127.0.0.1:1/a.pdf"), "[document left out"),
        (document(type="content", content=[text("A"), PICTURE]), f"A\n{NOTE}"),
    ],
)
def test_what_cannot_be_read_is_named(block: dict[str, Any], words: str) -> None:
    assert shown(block).startswith(words)
    assert shown(result(block)).startswith(words)


@pytest.mark.parametrize(
    "block",
    [
        document(type="text", media_type="text/plain", data="The text."),
        document(type="content", content="The text."),
        document(type="content", content=[text("The"), text("text.")]),
        {"type": "search_result", "source": "s", "title": "t", "content": [text("The text.")]},
    ],
)
def test_a_document_of_text_is_text(block: dict[str, Any]) -> None:
    assert shown(block).replace("\n", " ") == "The text."
    assert shown(result(block)).replace("\n", " ") == "The text."


@pytest.mark.parametrize(
    "content",
    [
        [PICTURE],
        [PDF],
        [document(type="content", content=[PICTURE])],
        [result(text("a"), PICTURE)],
        [result(PDF)],
    ],
)
def test_they_are_refused_where_the_server_is_told_to(start_server: StartServer, content: Any) -> None:
    server = start_server(config=ServerConfig(images="refuse"))
    with pytest.raises(anthropic.BadRequestError, match=r"content of type '(image|document)' is not support"):
        server.sdk().messages.create(
            model="default", max_tokens=9, messages=[{"role": "user", "content": content}]
        )
    plain: Any = [document(type="text", media_type="text/plain", data="The text.")]
    server.sdk().messages.create(model="default", max_tokens=9, messages=[{"role": "user", "content": plain}])
    assert len(server.scheduler.requests) == 1


PARTS: list[tuple[Any, str]] = [
    ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}, NOTE),
    ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}, "[image left out"),
    ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "[audio left out"),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": ""}}, "Document: a.pdf\n[document left out"),
]


@pytest.mark.parametrize(("part", "words"), PARTS)
def test_openais_parts_are_treated_alike(server: Server, part: Any, words: str) -> None:
    server.openai().chat.completions.create(
        model="default", messages=[{"role": "user", "content": [{"type": "text", "text": "See:"}, part]}]
    )
    assert f"See:\n{words}" in server.prompt_text()


def test_openais_parts_are_refused_alike(start_server: StartServer) -> None:
    server = start_server(config=ServerConfig(images="refuse"))
    for part, _ in PARTS:
        with pytest.raises(openai.BadRequestError, match="this server refuses the rest"):
            server.openai().chat.completions.create(
                model="default", messages=[{"role": "user", "content": [part]}]
            )
