"""Puts what sessions share at the head of a prompt, and what differs between them behind it.

The order of the head: tools, from those that all agents have to those that few have; the system prompt; what
the client says of its tools, agents and skills in a system message; the sections that name one folder
(memory, git status, environment). Then come the messages. Nothing is left out or worded anew: whole
paragraphs move, each by a rule that depends on its own first words, and on no later message.
"""

from collections import abc
from dataclasses import dataclass, replace

from ..schema import AssistantMessage, CountTokensRequest, Message, SystemMessage, TextBlock, Tool

# A line that is different in every conversation: with it, no two conversations would share a prefix.
BILLING_PREFIX = "x-anthropic-billing-header"

TOOL_ORDER = (
    # All of Claude Code's agents have these,
    *("Read", "Skill", "ToolSearch", "Glob", "Grep", "WebFetch", "WebSearch", "Bash"),
    # all but those that only read,
    *("Edit", "Write", "NotebookEdit", "TodoWrite", "Agent", "Task"),
)
"""Names of tools in the order in which they are shown, before all others."""

OF_PROJECTS = "mcp__"  # begins the names of tools that differ between projects: they are shown last

ENVIRONMENT = "# Environment\nYou have been invoked"
OWN_PARAGRAPHS = (
    ENVIRONMENT,
    "You are powered by the model",
    "Here is useful information about the environment you are running in:",
    "gitStatus:",
)
"""First words of paragraphs that name the folder of one session."""

OWN_SECTIONS = ("# Memory", "# auto memory")  # headings of sections that name a folder, to the next heading
HEADING = "# "

DAY = "Today's date is "


@dataclass(frozen=True, slots=True)
class _Parts:
    """The paragraphs of one system text, by how long they hold."""

    shared: str  # in many sessions
    own: str  # in one folder
    day: str


def ordered_tools(tools: abc.Iterable[Tool]) -> list[Tool]:
    """Return tools in a fixed order, in which tools without a place keep the client's."""
    return sorted(tools, key=_place)


def split_head(request: CountTokensRequest) -> tuple[list[str], CountTokensRequest]:
    """Return the system prompt's texts, and the request with the messages that do not belong to them.

    The first system messages, if no answer stands before them, belong to the system prompt, and so does the
    first that describes the environment: after a compaction, Claude Code sends that one behind an answer.
    Later ones stay in place, as moving them would change a cached prefix. The day stays where the client says
    it, behind the user's words: the head outlives it.
    """
    parts = [_parts(_without_billing(block.text)) for block in request.system]
    stay: list[Message] = []
    has_environment = any(ENVIRONMENT in part.own for part in parts)
    is_closed = False  # to all but the environment
    for message in request.messages:
        texts = _system_texts(message)
        is_closed |= isinstance(message, AssistantMessage) or (not texts and len(parts) > len(request.system))
        describes = any(ENVIRONMENT in text for text in texts)
        if not texts or (is_closed and (has_environment or not describes)):
            stay.append(message)
            continue
        has_environment |= describes
        moved = [_parts(text) for text in texts]
        days = "\n\n".join(part.day for part in moved if part.day)
        if stay and days:
            stay.append(SystemMessage(role="system", content=[TextBlock(type="text", text=days)]))
            moved = [replace(part, day="") for part in moved]
        parts += moved
    if not stay:  # a conversation must have messages
        return _in_order(parts[: len(request.system)]), request
    return _in_order(parts), request.model_copy(update={"messages": stay})


def _in_order(parts: abc.Sequence[_Parts]) -> list[str]:
    texts = [*(part.shared for part in parts), *(part.own for part in parts), *(part.day for part in parts)]
    return [text for text in texts if text]


def _parts(text: str) -> _Parts:
    shared, own, day = [], [], []
    in_own_section = False
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(HEADING):
            in_own_section = paragraph.partition("\n")[0] in OWN_SECTIONS
        if in_own_section or paragraph.startswith(OWN_PARAGRAPHS):
            own.append(paragraph)
        elif paragraph.startswith(DAY):
            day.append(paragraph)
        else:
            shared.append(paragraph)
    return _Parts("\n\n".join(shared), "\n\n".join(own), "\n\n".join(day))


def _system_texts(message: Message) -> list[str]:
    """Return a system message's texts; of any other message none."""
    if not isinstance(message, SystemMessage):
        return []
    return [block.text for block in message.content if isinstance(block, TextBlock) and block.text]


def _place(tool: Tool) -> int:
    if tool.name in TOOL_ORDER:
        return TOOL_ORDER.index(tool.name)
    return len(TOOL_ORDER) + tool.name.startswith(OF_PROJECTS)


def _without_billing(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(BILLING_PREFIX) else text
