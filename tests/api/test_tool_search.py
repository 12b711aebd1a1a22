"""Searches for tools whose loading is deferred."""

from typing import Any

import pytest

from pensieve.api.schema import Tool
from pensieve.api.server_rounds import in_rounds
from pensieve.api.tool_search import BadQuery, find_by_pattern, find_by_words


def tool(name: str, description: str = "", **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties}
    return Tool(name=name, description=description, input_schema=schema, defer_loading=True)


TOOLS = [
    tool(
        "getWeather", "Tells the weather of a city", city={"type": "string", "description": "Name of a town"}
    ),
    tool("slack_post", "Posts a message", channel={"type": "string"}),
    tool("mail", "Sends mail, not to Slack", to={"type": "object", "properties": {"address": {}}}),
    tool("nameless"),
]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("slack", ["slack_post"]),
        ("(?i)slack", ["slack_post", "mail"]),
        ("GETweather", ["getWeather"]),
        ("address|town", ["getWeather", "mail"]),
        ("^mail$", ["mail"]),
        ("nothing", []),
        (".", [tool.name for tool in TOOLS]),
    ],
)
def test_a_pattern_is_looked_for_in_names_texts_and_arguments(pattern: str, names: list[str]) -> None:
    assert find_by_pattern(TOOLS, pattern) == names


@pytest.mark.parametrize("pattern", ["", "(", "(?=x)", "x" * 201, "a{1000}{1000}{1000}"])
def test_a_pattern_that_cannot_be_read_is_told(pattern: str) -> None:
    with pytest.raises(BadQuery):
        find_by_pattern(TOOLS, pattern)


def test_a_pattern_takes_linear_time() -> None:
    """The interpreter's own expressions would not come to an end."""
    assert find_by_pattern([tool("a", "a" * 20_000 + "b")], "^(a+)+$") == ["a"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("weather in my town", ["getWeather"]),
        ("post to slack", ["slack_post", "mail"]),
        ("an ADDRESS", ["mail"]),
        ("rocket", []),
    ],
)
def test_words_find_the_tools_that_they_fit_best(query: str, names: list[str]) -> None:
    assert find_by_words(TOOLS, query)[: len(names)] == names
    assert bool(find_by_words(TOOLS, query)) == bool(names)


def test_no_more_than_five_tools_are_found() -> None:
    many = [tool(f"tool_{i}", "the same") for i in range(20)]
    assert find_by_pattern(many, "same") == find_by_words(many, "the same") == [t.name for t in many[:5]]
    assert find_by_words([], "x") == find_by_pattern([], "x") == []
    with pytest.raises(BadQuery):
        find_by_words(many, " ?! ")


CALL: Any = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "s", "input": {}}
OWN: Any = {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}}
FOUND: Any = {
    "type": "tool_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {"tool_references": [{"type": "tool_reference", "tool_name": "f"}]},
}


def test_results_at_an_answers_end_come_before_the_users_words() -> None:
    last = {"type": "text", "text": "Hi"}
    user, called, told = in_rounds([user_says("Go"), answer(CALL, OWN, FOUND), user_says("Hi")])
    assert (user, called) == (user_says("Go"), answer(CALL | {"type": "tool_use", "id": "toolu_1"}, OWN))
    assert [block["type"] for block in told["content"]] == ["tool_result", "text"]
    assert told["content"][1] == last
    assert in_rounds([answer(CALL, FOUND)])[1]["role"] == "user"


def test_what_is_no_answer_of_the_servers_tools_stays() -> None:
    odd = [answer(CALL, OWN), answer(), {"role": "assistant", "content": 5}, 7, {"role": []}]
    odd += [answer({"type": "tool_search_tool_result", "tool_use_id": [], "content": {}})]
    assert in_rounds(odd) == odd
    assert in_rounds("odd") == "odd"


def test_odd_results_can_be_shown() -> None:
    for content in ({}, {"tool_references": [5, None]}, [], [7, {}], {"error_code": "unavailable"}):
        odd = in_rounds(
            [answer({"type": "x", "id": []}, CALL, FOUND | {"content": content}), user_says("Hi")]
        )
        assert odd[1]["content"][0]["type"] == "tool_result"
        assert odd[1]["content"][0]["content"]


def user_says(text: str) -> Any:
    return {"role": "user", "content": text}


def answer(*blocks: Any) -> Any:
    return {"role": "assistant", "content": list(blocks)}
