"""Earlier answers in which the server ran tools, as the rounds that they were for the model.

For the client such an answer is one message, with the calls and their results as blocks. The model has made
each call in an answer of its own, and has read the result behind it. Shown so again, the prompt begins with
the tokens that are cached, and tools that a search has found stand where it found them.
"""

from typing import Any

Json = Any

SERVER_PREFIX = "srv"
"""What the ids of calls begin with, before the model's own ids."""

FOUND_TOOLS, FOUND_PAGES = "tool_search_tool_result", "web_search_tool_result"
NOTHING_FOUND, NO_PAGES = "No tool was found.", "The search has found nothing."


def listed_pages(pages: list[dict[str, Json]]) -> str:
    """Return what a search of the web has found as the model reads it."""
    texts = [
        "\n".join(text for text in (f"{place}. {page.get('title')}", *_page_texts(page)) if text)
        for place, page in enumerate(pages, 1)
    ]
    return "\n\n".join(texts) or NO_PAGES


def in_rounds(messages: Json) -> Json:
    """Return a request's messages, in which each earlier answer with results of the server's tools is parted.

    Results at the end of an answer become the first ones of the user's message behind it.
    """
    if not isinstance(messages, list):
        return messages
    parted: list[Json] = []
    results: list[Json] = []  # of the answer before
    for message in messages:
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else ("", "")
        )
        if results and role == "user":
            said = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            parted.append(message | {"content": results + said if isinstance(said, list) else said})
            results = []
            continue
        parted += _results_message(results)
        results = []
        if role == "assistant" and isinstance(content, list):
            rounds, results = _rounds(content)
            parted += rounds or [message]
        else:
            parted.append(message)
    return parted + _results_message(results)


def _rounds(content: list[Json]) -> tuple[list[Json], list[Json]]:
    """Return the messages of an answer's rounds, and the results at its end; none where it has no results."""
    found = {block["tool_use_id"] for block in content if _result(block) is not None}
    if not found:
        return [], []
    messages: list[Json] = []
    said: list[Json] = []
    results: list[Json] = []
    for block in content:
        if (result := _result(block)) is not None:
            results.append(result)
            continue
        if results:
            messages += [{"role": "assistant", "content": said}, *_results_message(results)]
            said, results = [], []
        said.append(_call(block) if _is_call(block) and block["id"] in found else block)
    return [*messages, *([{"role": "assistant", "content": said}] if said else [])], results


def _results_message(results: list[Json]) -> list[Json]:
    return [{"role": "user", "content": results}] if results else []


def _is_call(block: Json) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") == "server_tool_use"
        and isinstance(block.get("id"), str)
    )


def _call(block: dict[str, Json]) -> dict[str, Json]:
    return block | {"type": "tool_use", "id": _own_id(block["id"])}


def _result(block: Json) -> dict[str, Json] | None:
    """Return the result of a call of a server tool as the model reads it; None for any other block."""
    if not isinstance(block, dict) or not isinstance(block.get("tool_use_id"), str):
        return None
    kind, content = block.get("type"), block.get("content")
    if kind not in (FOUND_TOOLS, FOUND_PAGES) or not isinstance(content, dict | list):
        return None
    return {
        "type": "tool_result",
        "tool_use_id": _own_id(block["tool_use_id"]),
        "content": _result_content(content),
    }


def _result_content(content: Json) -> Json:
    if isinstance(content, list):
        return listed_pages([page for page in content if isinstance(page, dict)])
    references = content.get("tool_references")
    if isinstance(references, list):
        return [found for found in references if isinstance(found, dict)] or NOTHING_FOUND
    return f"Error: {content.get('error_message') or content.get('error_code')}"


def _own_id(call_id: str) -> str:
    return call_id.removeprefix(SERVER_PREFIX)


def _page_texts(page: dict[str, Json]) -> list[str]:
    return [str(page[name]) for name in ("url", "text", "page_age") if page.get(name)]
