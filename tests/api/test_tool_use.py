"""Tools and their calls through the Anthropic SDK, over a real socket."""

from typing import Any

import anthropic
import pytest
from anthropic.types import TextBlock, ToolUseBlock

from .conftest import Server
from .exchange import BASH, CALL, HELLO, contents


def test_a_tool_call_becomes_a_tool_use_block(server: Server) -> None:
    server.scheduler.play(server.script(f"Let me look.\n{CALL}"))
    message = server.sdk().messages.create(model="default", max_tokens=500, messages=HELLO, tools=[BASH])
    text, call = message.content
    assert isinstance(text, TextBlock)
    assert text.text == "Let me look."
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input) == ("Bash", {"command": "ls"})
    assert call.id.startswith("toolu_")
    assert message.stop_reason == "tool_use"
    assert server.scheduler.token_streams[0].calls == {"Bash"}


def test_several_tool_calls_stream_as_blocks_of_their_own(server: Server) -> None:
    server.scheduler.play(server.script(f"{CALL}\n{CALL}"))
    with server.sdk().messages.stream(
        model="default", max_tokens=500, messages=HELLO, tools=[BASH]
    ) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["tool_use", "tool_use"]
    assert len({block.id for block in message.content if block.type == "tool_use"}) == 2


def stream_events(server: Server) -> list[Any]:
    with server.sdk().messages.stream(
        model="default", max_tokens=500, messages=HELLO, tools=[BASH]
    ) as stream:
        return list(stream)


def test_a_call_is_streamed_while_it_is_written(server: Server) -> None:
    server.scheduler.play(server.script(CALL, size=5))
    events = stream_events(server)
    fragments = [event.partial_json for event in events if event.type == "input_json"]
    assert len(fragments) >= 3
    assert "".join(fragments) == '{"command": "ls"}'
    kinds = [event.type for event in events]
    assert kinds.index("content_block_start") < kinds.index("input_json") < kinds.index("content_block_stop")


def test_a_call_that_max_tokens_cuts_off_is_whole_nowhere(server: Server) -> None:
    """As Anthropic's API does it: the fragments so far, and stop_reason max_tokens."""
    server.scheduler.play(server.script(CALL[:-16], finish="length"))
    message = stream_events(server)[-1].message
    whole = server.sdk().messages.create(model="default", max_tokens=500, messages=HELLO, tools=[BASH])
    assert message.stop_reason == whole.stop_reason == "max_tokens"
    assert server.scheduler.token_streams[0].calls == set()
    raw = '{"command": "ls'
    assert contents(whole)[0]["input"] == {"__unparsedToolInput": {"raw": raw, "len": len(raw)}}
    assert (message.content[0].name, message.content[0].input) == ("Bash", {})


def test_an_only_call_that_max_tokens_cuts_off_does_not_end_the_answer_well(server: Server) -> None:
    """Its end, which the cut made, once passed for the end of the one call that was asked for."""
    server.scheduler.play(server.script(CALL[:-16], finish="length"))
    message = server.sdk().messages.create(
        model="default",
        max_tokens=500,
        messages=HELLO,
        tools=[BASH],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    assert message.stop_reason == "max_tokens"


def test_a_broken_call_is_an_error_to_the_sdk_and_not_half_a_call(server: Server) -> None:
    server.scheduler.play(server.script(CALL.replace('"ls"', '"ls", "x": nul')))
    with pytest.raises(ValueError, match="Unable to parse tool parameter JSON"):
        stream_events(server)


def test_parallel_calls_can_be_switched_off(server: Server) -> None:
    server.scheduler.play(server.script(f"{CALL}\n{CALL}", hangs=True))
    message = server.sdk().messages.create(
        model="default",
        max_tokens=500,
        messages=HELLO,
        tools=[BASH],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    assert [block.type for block in message.content] == ["tool_use"]
    assert server.scheduler.token_streams[0].num_cancels > 0


def test_without_tools_the_marks_of_a_call_are_text(server: Server) -> None:
    server.scheduler.play(server.script(CALL))
    message = server.sdk().messages.create(model="default", max_tokens=500, messages=HELLO)
    assert contents(message) == [{"type": "text", "text": CALL}]


def test_tool_choice_none_shows_the_tools_but_reads_no_calls(server: Server) -> None:
    server.scheduler.play(server.script(CALL))
    message = server.sdk().messages.create(
        model="default", max_tokens=500, messages=HELLO, tools=[BASH], tool_choice={"type": "none"}
    )
    assert [block.type for block in message.content] == ["text"]
    assert "Runs a command" in server.prompt_text()
    assert "without calling a tool" in server.prompt_text()


def test_tool_choice_any_asks_for_a_call(server: Server) -> None:
    server.sdk().messages.create(
        model="default", max_tokens=9, messages=HELLO, tools=[BASH], tool_choice={"type": "any"}
    )
    assert "must be a call of one of the tools" in server.prompt_text()


def test_a_named_tool_must_exist(server: Server) -> None:
    with pytest.raises(anthropic.BadRequestError, match="no such tool"):
        server.sdk().messages.create(
            model="default",
            max_tokens=9,
            messages=HELLO,
            tools=[BASH],
            tool_choice={"type": "tool", "name": "Read"},
        )
