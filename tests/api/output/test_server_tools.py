"""Tools that the server runs: what the client and the model see of a search, and of what is not there."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from pensieve.api.config import ServerConfig

from ..conftest import Server, StartServer
from ..exchange import BASH, CALL

SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
HELLO: Any = [{"role": "user", "content": "Perform a web search for the query: cats"}]
SEARCH_CALL = '<tool_call>\n{"name": "web_search", "arguments": {"query": "cats\\n; $(a)"}}\n</tool_call>'

FOUND = """
import json, sys
query = sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read()
for host in ("a.org", "sub.b.org"):
    print(json.dumps({"title": f"About {query}", "url": f"https://{host}/x", "snippet": f"Words of {host}"}))
"""


def command(tmp_path: Path, program: str, *arguments: str) -> ServerConfig:
    path = tmp_path / "search.py"
    path.write_text(program)
    return ServerConfig(search_command=shlex.join([sys.executable, str(path), *arguments]))


def ask(server: Server, tools: list[Any], **fields: Any) -> Any:
    """Ask twice, for a whole answer and for a stream, which must be the same, and return it."""
    arguments: Any = {"model": "default", "max_tokens": 500, "messages": HELLO, "tools": tools, **fields}
    scripts = tuple(server.scheduler.scripts)
    whole = server.sdk().messages.create(**arguments)
    server.scheduler.play(*scripts)
    with server.sdk().messages.stream(**arguments) as stream:
        streamed = stream.get_final_message()
    assert without_ids(streamed) == without_ids(whole)
    return whole


def without_ids(message: Any) -> Any:
    body = message.to_dict(warnings=False)  # of types that only the beta's have
    for block in body["content"]:
        block.pop("id", None)
        block.pop("tool_use_id", None)
    return {key: body[key] for key in ("content", "stop_reason")} | {"out": body["usage"]["output_tokens"]}


@pytest.mark.parametrize("arguments", [(), ("{query}",)], ids=["on its standard input", "as an argument"])
def test_a_search_is_run_and_its_results_reach_model_and_client(
    start_server: StartServer, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    server = start_server(config=command(tmp_path, FOUND, *arguments))
    server.scheduler.play(server.script(f"I look.{SEARCH_CALL}"), server.script("Cats are known."))
    message = ask(server, [SEARCH], tool_choice={"type": "auto"})
    said, call, result, answer = message.content
    assert (said.text, answer.text, message.stop_reason) == ("I look.", "Cats are known.", "end_turn")
    assert (call.type, call.name, call.input) == (
        "server_tool_use",
        "web_search",
        {"query": "cats\n; $(a)"},
    )
    assert (result.type, result.tool_use_id) == ("web_search_tool_result", call.id)
    assert call.id.startswith("srvtoolu_")
    hits = [(hit.type, hit.title, hit.url) for hit in result.content]
    assert hits == [
        ("web_search_result", "About cats ; $(a)", f"https://{host}/x") for host in ("a.org", "sub.b.org")
    ]
    assert message.usage.server_tool_use.web_search_requests == 1
    assert "2. About cats ; $(a)\nhttps://sub.b.org/x\nWords of sub.b.org" in server.prompt_text()
    first, second = server.scheduler.requests[:2]
    assert second.prompt[: len(first.prompt)] == first.prompt
    rounds = [len(request.prompt) for request in (first, second)]
    assert message.usage.input_tokens == sum(rounds)
    assert second.max_tokens < first.max_tokens


def test_domains_are_left_out_and_the_clients_own_tools_end_the_answer(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(config=command(tmp_path, FOUND))
    server.scheduler.play(server.script(f"{SEARCH_CALL}{CALL}"))
    message = ask(server, [SEARCH | {"allowed_domains": ["b.org"]}, BASH])
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == [
        "server_tool_use",
        "tool_use",
        "web_search_tool_result",
    ]
    assert [hit.url for hit in message.content[-1].content] == ["https://sub.b.org/x"]
    message = ask(server, [SEARCH | {"blocked_domains": ["b.org"]}, BASH])
    assert [hit.url for hit in message.content[-1].content] == ["https://a.org/x"]


@pytest.mark.parametrize(
    "kind", ["web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "advisor_20260301"]
)
def test_what_is_not_there_is_told_the_model_and_the_client(server: Server, kind: str) -> None:
    """A refusal of the request would end the session, and make Claude Code send all its tools in full."""
    name = kind.rpartition("_")[0]
    wrote = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'
    server.scheduler.play(server.script(wrote), server.script("I cannot."))
    message = ask(server, [{"type": kind, "name": name}])
    result, answer = message.content[1:]
    assert result.to_dict(warnings=False)["content"]["error_code"] == "unavailable"
    assert (answer.text, message.usage.server_tool_use) == ("I cannot.", None)
    assert f"The tool {name} is not available on this server." in server.prompt_text()
    assert len(server.scheduler.requests) == 4


@pytest.mark.parametrize(
    "program", ["raise SystemExit(3)", "import time; print('{}', flush=True); time.sleep(60)"]
)
def test_a_search_that_fails_is_told(
    start_server: StartServer, tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pensieve.api.web_search.LIMIT_S", 0.3 if "sleep" in program else 20)
    server = start_server(config=command(tmp_path, program))
    server.scheduler.play(server.script(SEARCH_CALL), server.script("It failed."))
    message = ask(server, [SEARCH])
    assert message.content[1].content.error_code == "unavailable"
    assert "Error: The search" in server.prompt_text()


def test_no_word_of_the_models_becomes_an_option(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(config=command(tmp_path, FOUND, "{query}"))
    wrote = SEARCH_CALL.replace("cats\\n; $(a)", " --url-handler=evil")
    server.scheduler.play(server.script(wrote), server.script("Found."))
    message = ask(server, [SEARCH])
    assert message.content[1].content[0].title == "About url-handler=evil"


def test_a_tool_may_have_a_field_of_the_clients_own(server: Server) -> None:
    """Its field `server` was once read as the server's own."""
    server.scheduler.play(server.script("Hi."))
    own = [BASH | {"server": "github"}, BASH | {"name": "b", "server": {"kind": "web_search"}}]
    assert ask(server, own).content[0].text == "Hi."


def test_searches_and_tokens_have_an_end(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(config=command(tmp_path, "print('Just words')"))
    server.scheduler.play(server.script(SEARCH_CALL))  # again and again
    message = ask(server, [SEARCH], max_tokens=4 * len(SEARCH_CALL))
    results = [block.content for block in message.content if block.type == "web_search_tool_result"]
    assert [hit.to_dict()["text"] for hits in results[:2] for hit in hits] == ["Just words"] * 2
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert message.usage.server_tool_use.web_search_requests == 2


@pytest.mark.parametrize("wrong", ["no-such-program-anywhere x", "'open", ""])
def test_a_command_that_cannot_be_run_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match="search-command"):
        ServerConfig(search_command=wrong)


def deferred(name: str) -> Any:
    return BASH | {"name": name, "description": f"Does {name}", "defer_loading": True}


@pytest.mark.parametrize("kind", ["regex", "bm25"])
def test_tools_are_searched_for_and_called_in_one_answer(server: Server, kind: str) -> None:
    """The next request shows it all as the rounds were, so that its prompt begins with what is cached."""
    name = f"tool_search_tool_{kind}"
    tools = [{"type": f"{name}_20251119", "name": name}, deferred("Bash"), deferred("Mail")]
    wrote = f'<tool_call>\n{{"name": "{name}", "arguments": {{"query": "bash"}}}}\n</tool_call>'
    server.scheduler.play(server.script(f"I look.{wrote}"), server.script(f"There.{CALL}"))
    message = ask(server, tools)
    assert message.stop_reason == "tool_use"
    said, search, found, there, call = message.content
    assert (search.type, search.name, search.input) == ("server_tool_use", name, {"query": "bash"})
    assert found.to_dict() == {
        "type": "tool_search_tool_result",
        "tool_use_id": search.id,
        "content": {
            "type": "tool_search_tool_search_result",
            "tool_references": [{"type": "tool_reference", "tool_name": "Bash"}],
        },
    }
    assert (said.text, there.text, call.name) == ("I look.", "There.", "Bash")
    first, second = server.prompt_text(0), server.prompt_text(1)
    assert second.startswith(first)
    assert ("Does Bash" in first, "Does Bash" in second, "Does Mail" in second) == (False, True, False)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "a.txt"}
    history = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    last = server.scheduler.requests[-1].prompt
    server.scheduler.play(server.script("Done."))
    ask(server, tools, messages=HELLO + history)
    assert server.scheduler.requests[-1].prompt[: len(last)] == last
    assert "srvtoolu" not in server.prompt_text()


def test_a_search_for_tools_that_fails_may_be_tried_again(server: Server) -> None:
    name = "tool_search_tool_regex"
    wrote = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {{"query": "{query}"}}}}\n</tool_call>'
        for query in ("(", "rocket")
    ]
    server.scheduler.play(*map(server.script, wrote), server.script("None."))
    message = ask(server, [{"type": name, "name": name}, deferred("Mail")])
    failed, empty = message.content[1].content, message.content[3].content
    assert (failed.error_code, "cannot be read" in failed.error_message) == ("invalid_tool_input", True)
    assert (empty.tool_references, message.content[4].text) == ([], "None.")
    assert "Error: The pattern cannot be read" in server.prompt_text()
    assert "No tool was found." in server.prompt_text()


def test_a_report_has_all_rounds_of_an_answer(server: Server) -> None:
    name = "tool_search_tool_bm25"
    wrote = f'<tool_call>\n{{"name": "{name}", "arguments": {{"query": "mail"}}}}\n</tool_call>'
    server.scheduler.play(server.script(wrote, num_cached=5), server.script("Found.", num_cached=9))
    body = {"model": "default", "max_tokens": 500, "messages": HELLO}
    body["tools"] = [{"type": name, "name": name}, deferred("Mail")]
    response = server.http().post("/v1/messages", json=body)
    usage, url = response.json()["usage"], f"/v1/requests/{response.headers['request-id']}"
    report = server.http().get(url).json()
    rounds, tokens = report["rounds"], report["tokens"]
    assert (report["outcome"], [found["outcome"] for found in rounds]) == ("stop", ["tool_use", "stop"])
    assert [found["tokens"]["found"] for found in rounds] == [5, 9]
    assert tokens["prompt"] == sum(len(request.prompt) for request in server.scheduler.requests)
    assert (tokens["found"], tokens["generated"]) == (14, usage["output_tokens"])
    assert tokens["prompt"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert report["times_ms"]["total"] >= sum(found["times_ms"]["decode"] for found in rounds)
    assert report["cache"] == rounds[0]["cache"]
