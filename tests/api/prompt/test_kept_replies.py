"""What is kept of replies, by which keys, and how much."""

import json
import random

from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    OutputEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallEnd,
    ToolCallStart,
)
from pensieve.api.formats.reply_contents import KeptCall
from pensieve.api.prompt.kept_replies import (
    ConversationKeys,
    Header,
    ReplyHistory,
    ReplyKeeper,
)
from pensieve.api.prompt.template_messages import model_turn, user_turn

HEADER = Header(("user",), "<assistant>")
EVENTS: list[OutputEvent] = [
    ThinkingDelta("Let me "),
    ThinkingDelta("think."),
    TextDelta("I"),
    TextDelta(" look."),
    ToolCallStart("Bash", "toolu_1"),
    ArgumentsDelta('{"comm'),
    ArgumentsDelta('and": "ls"}'),
    ToolCallEnd(),
    TextDelta("  \n"),
    ToolCallStart("Read", "toolu_2"),
    ArgumentsDelta("{}"),
    ToolCallEnd(),
    TextDelta("That is all."),
]
CALL = {"id": "toolu_1", "function": {"name": "Bash", "arguments": {}}}


def keeper(history: ReplyHistory, owner: bytes = b"me") -> tuple[ReplyKeeper, ConversationKeys]:
    keys = ConversationKeys(owner, ["system"])
    keys.add(user_turn("question"))
    return ReplyKeeper(history, owner, keys.place, HEADER, lambda *_: True), keys


def test_a_reply_with_calls_is_found_by_its_first_calls_id() -> None:
    history = ReplyHistory(10**6)
    keep, keys = keeper(history)
    keep.keep([1, 2, 3], EVENTS)
    found = history.find(keys.reply_key(model_turn("anything") | {"tool_calls": [CALL]}))
    assert found is not None
    assert (list(found.tokens), found.header) == ([1, 2, 3], HEADER)
    assert (found.thoughts, found.text) == ("Let me think.", "I look.\nThat is all.")
    calls = (KeptCall("toolu_1", "Bash", {"command": "ls"}), KeptCall("toolu_2", "Read", {}))
    assert found.calls == calls


def test_a_reply_without_calls_is_found_by_its_words_and_the_conversation_before_it() -> None:
    history = ReplyHistory(10**6)
    keep, keys = keeper(history)
    keep.keep([1], [TextDelta("Done.\n")])
    keep.keep([2], [ThinkingDelta("Hm."), TextDelta("Done.")])
    first = history.find(keys.reply_key(model_turn("Done.")))
    assert first is not None
    assert list(first.tokens) == [1]
    second = history.find(keys.reply_key(model_turn("Done.") | {"reasoning_content": "Hm."}))
    assert second is not None
    assert list(second.tokens) == [2]
    assert history.find(keys.reply_key(model_turn("Done!"))) is None
    keys.add(user_turn("another question"))
    assert history.find(keys.reply_key(model_turn("Done."))) is None


def test_replies_of_another_key_are_not_found() -> None:
    history = ReplyHistory(10**6)
    keep, _ = keeper(history)
    keep.keep([1], EVENTS)
    keep.keep([2], [TextDelta("Done.")])
    _, others = keeper(history, b"you")
    assert history.find(others.reply_key(model_turn("") | {"tool_calls": [CALL]})) is None
    assert history.find(others.reply_key(model_turn("Done."))) is None


def test_an_empty_reply_and_a_call_without_json_are_not_kept() -> None:
    history = ReplyHistory(10**6)
    keep, _ = keeper(history)
    keep.keep([], [])
    keep.keep([1], [ToolCallStart("Bash", "toolu_1"), ArgumentsDelta('{"a": '), ToolCallEnd()])
    keep.keep([1], [ToolCallStart("Bash", "toolu_1")])
    assert history.num_bytes == 0


def test_the_replies_used_last_are_kept_within_the_limit() -> None:
    history, rng = ReplyHistory(100_000), random.Random(3)
    keep, keys = keeper(history)
    used: list[str] = []
    for number in range(400):
        name = f"toolu_{number}"
        arguments = json.dumps({"text": "x" * rng.randint(0, 2000)})
        keep.keep(
            [7] * rng.randint(1, 500), [ToolCallStart("A", name), ArgumentsDelta(arguments), ToolCallEnd()]
        )
        used.append(name)
        again = rng.choice(used[-5:])
        if is_kept(history, keys, again):
            used.remove(again)
            used.append(again)
        assert history.num_bytes <= history.max_bytes
    kept = [is_kept(history, keys, name) for name in used]
    assert kept == sorted(kept)
    assert 10 < sum(kept) < 100


def is_kept(history: ReplyHistory, keys: ConversationKeys, call_id: str) -> bool:
    return history.find(keys.reply_key(model_turn("") | {"tool_calls": [CALL | {"id": call_id}]})) is not None
