"""What a relay between Claude Code and a server sends on, answers and counts."""

import argparse
import json
from collections.abc import Mapping
from email.message import Message
from typing import Any

import pytest

from pensieve.bench.client import Timing
from pensieve.bench.micro import client_fairness
from pensieve.bench.micro.client_fairness import (
    ALONE,
    CROWD,
    END,
    ITS_MAIN,
    OTHERS,
    SUBAGENTS,
    ClientRelay,
    ratios,
)
from pensieve.bench.scripted_answers import Block

TURNS = 3


def headers(session: str, agent: str = "") -> Message:
    message = Message()
    message["X-Claude-Code-Session-Id"] = session
    if agent:
        message["x-claude-code-agent-id"] = agent
    return message


def ask(relay: ClientRelay, sender: Message, text: str, number: int) -> list[Block]:
    """Send a conversation in which `number` answers stand."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "?"}] * number
    body = {"messages": [*turns, {"role": "user", "content": text}], "metadata": {"user_id": "u"}}
    return relay.respond(json.dumps(body).encode(), sender)[1]


@pytest.mark.parametrize("is_fair", [False, True])
def test_subagents_work_until_all_main_agents_have_had_their_turns(
    is_fair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[tuple[dict[str, Any], Mapping[str, str]]]()

    def stream(url: str, body: dict[str, Any], timeout_s: float, named: Mapping[str, str]) -> Timing:
        sent.append((body, named))
        return Timing(1.0, 2.0, "", 1, 0, 1, (1.0,))

    monkeypatch.setattr(client_fairness, "stream", stream)
    options = argparse.Namespace(url="http://127.0.0.1:1", turns=TURNS, output_tokens=4, result_lines=9)
    relay = ClientRelay(options, is_fair)
    relay.server_close()
    assert [name for name, _ in ask(relay, headers("a"), CROWD, 0)] == ["Agent"] * 4
    for session, text in (("b", ALONE), ("c", ALONE), ("a", CROWD)):
        assert ask(relay, headers("a", "one"), "Look at side 0.", 5) != END
        answers = [ask(relay, headers(session), text, number) for number in range(text == CROWD, TURNS)]
        assert [answer == END for answer in answers] == [
            number == len(answers) - 1 for number in range(len(answers))
        ]
    assert ask(relay, headers("a", "one"), "Look at side 0.", 6) == END
    ask(relay, headers("a"), CROWD, TURNS)  # an agent's end is told
    counts = {group: len(timings) for group, timings in relay.timings.items()}
    assert counts == {ITS_MAIN: TURNS, OTHERS: 2 * TURNS, SUBAGENTS: 3}
    assert {group: len(work) for group, work in relay.work_s.items()} == {ITS_MAIN: 1, OTHERS: 2}
    assert all(bool(named) == ("metadata" in body) == is_fair for body, named in sent)


def test_a_turn_that_is_under_way_at_the_end_counts_with_what_it_has_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left out, as long turns are more often than short ones, it flattered who waits."""
    clock = iter(range(1000))
    monkeypatch.setattr(client_fairness, "time", argparse.Namespace(monotonic=lambda: float(next(clock))))

    def stream(url: str, body: dict[str, Any], timeout_s: float, named: Mapping[str, str]) -> Timing:
        if "Look at side" in str(body["messages"]):
            for session, text in (("a", CROWD), ("b", ALONE), ("c", ALONE)):
                ask(relay, headers(session), text, 0)
        return Timing(1.0, 2.0, "", 1, 0, 1, (1.0,))

    monkeypatch.setattr(client_fairness, "stream", stream)
    options = argparse.Namespace(url="http://127.0.0.1:1", turns=1, output_tokens=4, result_lines=9)
    relay, other = ClientRelay(options, True), ClientRelay(options, False)
    for each in (relay, other):
        each.server_close()
    ask(relay, headers("a", "one"), "Look at side 0.", 0)
    assert not relay.timings[SUBAGENTS]
    [taken_s] = relay.turns_s(SUBAGENTS)
    assert taken_s > 3
    assert [line.endswith("over 1 rounds") for line in ratios([relay, relay], [relay])] == [True] * 3
    assert [line.endswith("in no round") for line in ratios([other, other], [relay])] == [True] * 3
