"""How prompts are compared with those before them, and what is kept of those."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from pensieve.api.protocols import TemplateMessage
from pensieve.api.reports.prompt_outline import PromptOutline, outline_of
from pensieve.api.reports.recent_prompts import (
    RecentPrompt,
    RecentPrompts,
    Sender,
    num_shared,
    pack,
    unpack,
)

from ...budget import trials

SENDER = Sender(b"key", "session")
TOKENS = st.lists(st.integers(0, 1), max_size=300)


def outline(*messages: int, tools: int = 1, system: int = 2) -> PromptOutline:
    return PromptOutline(tools, system, array("q", messages), "u" * len(messages))


def prompt(tokens: list[int], *messages: int, sender: Sender = SENDER) -> RecentPrompt:
    return RecentPrompt(sender, outline(*messages), pack(tokens), len(tokens), is_running=False)


@given(shared=TOKENS, ours=TOKENS, theirs=TOKENS)
@settings(max_examples=trials(50, 1000))
def test_the_tokens_that_two_prompts_share_are_counted_exactly(
    shared: list[int], ours: list[int], theirs: list[int]
) -> None:
    a, b = shared + ours, shared + theirs
    pairs = enumerate(zip(a, b, strict=False))
    expected = next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
    assert num_shared(pack(a), pack(b)) == expected
    assert unpack(pack(a)) == a


@given(ours=st.lists(st.integers(0, 2), max_size=40), theirs=st.lists(st.integers(0, 2), max_size=40))
@settings(max_examples=trials(50, 1000))
def test_the_parts_that_two_outlines_share_are_counted_exactly(ours: list[int], theirs: list[int]) -> None:
    pairs = enumerate(zip(ours, theirs, strict=False))
    expected = next((i for i, (x, y) in pairs if x != y), min(len(ours), len(theirs)))
    assert outline(*ours).num_alike(outline(*theirs)) == 2 + expected
    assert outline(*ours).num_alike(outline(*theirs, system=3)) == 1
    assert outline(*ours).num_alike(outline(*theirs, tools=3)) == 0


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(0, 300)), max_size=30))
@settings(max_examples=trials(20, 200))
def test_the_memory_of_all_prompts_stays_within_its_bound(sizes: list[tuple[int, int]]) -> None:
    recent = RecentPrompts(max_bytes=10_000)
    for number, (length, answer) in enumerate(sizes):
        added = prompt([number] * length, number)
        recent.add(added, recent.relatives(SENDER, added.outline, added.tokens))
        recent.end(added, [1] * answer, None)
        assert recent.num_bytes == sum(kept.num_bytes for kept in recent) <= 10_000


def test_a_conversation_keeps_the_prompt_that_continues_the_others() -> None:
    recent = RecentPrompts()
    for length in (100, 200, 300):
        added = prompt(list(range(length)), *range(length // 100))
        recent.add(added, recent.relatives(SENDER, added.outline, added.tokens))
        recent.end(added, [], None)
    branch = prompt([*range(150), *[7] * 100], 0, 9)
    recent.add(branch, recent.relatives(SENDER, branch.outline, branch.tokens))
    assert [kept.num_prompt_tokens for kept in recent] == [300, 250]
    assert branch.num_computed == 150


def test_messages_that_say_the_same_have_the_same_hash() -> None:
    call = {"id": "toolu_1", "function": {"name": "Bash", "arguments": {"command": "ls"}}}
    other = {"id": "toolu_1", "function": {"name": "Bash", "arguments": {"command": "ls", "timeout": 1}}}
    messages: list[TemplateMessage] = [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "Hi "},
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "", "tool_calls": [other]},
        {"role": "tool", "content": "", "tool_call_id": "toolu_1"},
    ]
    found = outline_of([], [], messages)
    assert len(set(found.messages)) == len(messages) - 1
    assert found.roles == "uuaaaat"
