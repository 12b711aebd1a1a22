"""What sessions share stands first in a prompt, and stays there while the conversation grows."""

import random
from itertools import pairwise
from typing import Any

import pytest

from pensieve.api.prompt.conversation import template_messages
from pensieve.api.prompt.shared_head import ordered_tools, split_head
from pensieve.api.schema import CountTokensRequest

from ...budget import trials

BILLING = "x-anthropic-billing-header: cc_version=2.1.330.abc; cc_entrypoint=cli;"
ENVIRONMENT = "# Environment\nYou have been invoked in the following environment: \n - {}"
MODEL = "You are powered by the model local."
TOOLS, SKILLS = (
    "The following deferred tools are now available:\nWebFetch",
    "The following skills:\n\n- run: Runs.",
)
MEMORY = "# Memory\n\nIt is at `{}`.\n\nOne file is one fact."
DAY = "Today's date is 2026-11-30."


def said(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": "\n\n".join(texts)}


USER, ANSWER = said("user", "Hi"), said("assistant", "Hello")


def request(*messages: dict[str, Any], **fields: Any) -> CountTokensRequest:
    return CountTokensRequest.model_validate({"model": "m", "messages": list(messages) or [USER]} | fields)


def shown(built: CountTokensRequest) -> list[tuple[str, str]]:
    """List roles and texts of a prompt, in order."""
    head, rest = split_head(built)
    messages = [(message["role"], message["content"]) for message in template_messages(rest)]
    return [("head", text) for text in head] + messages


def test_the_billing_block_is_dropped() -> None:
    blocks = [{"type": "text", "text": text} for text in (BILLING, "One.", "Two.")]
    assert split_head(request(system=blocks))[0] == ["One.", "Two."]
    assert split_head(request(system=f"{BILLING}\nYou are brief."))[0] == ["You are brief."]


@pytest.mark.parametrize("texts", [["One."], ["# A\n\nOne.\n\n\n\n# B\nTwo.\n"], ["\nOne.", " ", "Two."]])
def test_texts_of_other_clients_stay_as_they_are(texts: list[str]) -> None:
    blocks = [{"type": "text", "text": text} for text in texts]
    assert split_head(request(system=blocks))[0] == texts


def test_what_two_folders_share_stands_before_what_names_them() -> None:
    prompts = []
    for folder in ("/one", "/two"):
        system = f"Begin.\n\n{MEMORY.format(folder)}\n\n# Context\nEnd."
        sections = said("system", ENVIRONMENT.format(folder), MODEL, TOOLS, SKILLS, DAY)
        prompts.append(shown(request(USER, sections, system=system)))
        assert prompts[-1] == [
            ("head", "Begin.\n\n# Context\nEnd."),
            ("head", f"{TOOLS}\n\n{SKILLS}"),
            ("head", MEMORY.format(folder)),
            ("head", f"{ENVIRONMENT.format(folder)}\n\n{MODEL}"),
            ("user", "Hi"),
            ("system", DAY),
        ]
    assert prompts[0][:2] == prompts[1][:2]


def test_the_environment_is_at_the_head_wherever_it_stands() -> None:
    """After a compaction it stood behind an answer, in another order: 2,800 tokens were computed again."""
    sections = ENVIRONMENT.format("/one"), MODEL, TOOLS, SKILLS, DAY
    first = shown(request(USER, said("system", *sections), system="Begin."))
    moved = (TOOLS, SKILLS, *sections[:2], DAY)
    compacted = shown(request(said("user", "Sum."), ANSWER, USER, said("system", *moved), system="Begin."))
    assert [text for role, text in first if role == "head"] == [t for role, t in compacted if role == "head"]
    assert compacted[-2:] == [("user", "Hi"), ("system", DAY)]


def test_only_the_first_description_of_the_environment_moves() -> None:
    first, second = (said("system", ENVIRONMENT.format(folder)) for folder in ("/one", "/two"))
    prompt = shown(request(USER, first, ANSWER, second, USER))
    assert prompt == [
        ("head", ENVIRONMENT.format("/one")),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("system", ENVIRONMENT.format("/two")),
        ("user", "Hi"),
    ]


def test_a_conversation_of_system_messages_alone_is_left_as_it_is() -> None:
    built = request(said("system", "Two."), system="One.")
    assert split_head(built) == (["One."], built)


def test_a_longer_conversation_begins_with_the_shorter_one_and_nothing_is_lost() -> None:
    """Once the client has described the environment, as it does in its first request."""
    rng = random.Random(7)

    def step(*words: dict[str, Any]) -> list[dict[str, Any]]:
        """Make what one request adds: someone's words, and perhaps system messages behind them."""
        some = [said("system", *rng.sample(sections, rng.randint(1, 4))) for _ in range(rng.randint(0, 2))]
        return [rng.choice(words), *some]

    for case in range(trials(100, 1000)):
        sections = [ENVIRONMENT.format(case), MODEL, TOOLS, SKILLS, DAY, MEMORY.format(case), "# A\nMore."]
        system = "\n\n".join(rng.sample(sections, 3))
        described = said("system", *rng.sample(sections[1:], 3), sections[0])
        messages = [*step(USER), *step(USER, ANSWER), USER, described]
        prompts = [shown(request(*messages, system=system))]
        for _ in range(rng.randint(1, 6)):
            messages += step(USER, ANSWER)
            prompts.append(shown(request(*messages, system=system)))
        assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(prompts))
        sent = "\n\n".join([system, *(message["content"] for message in messages)])
        kept = "\n\n".join(text for _, text in prompts[-1])
        assert sorted(kept.split("\n\n")) == sorted(sent.split("\n\n"))


def test_tools_that_all_agents_have_come_first_and_those_of_projects_last() -> None:
    """A subagent shared nothing with its session, whose tools began with one that the subagent lacks."""

    def names(*tools: str) -> list[str]:
        built = request(tools=[{"name": name, "input_schema": {}} for name in tools])
        return [tool.name for tool in ordered_tools(built.tools or [])]

    session = names("Agent", "Bash", "Edit", "ListAgents", "Read", "Skill", "mcp__x", "Workflow", "Write")
    assert session == ["Read", "Skill", "Bash", "Edit", "Write", "Agent", "ListAgents", "Workflow", "mcp__x"]
    assert names("Bash", "Read", "Skill") == session[:3]
    assert names("Bash", "Edit", "Read", "Skill", "Write") == session[:5]
    assert names("zeta", "alpha") == ["zeta", "alpha"]
