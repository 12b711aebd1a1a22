"""Leaves old thoughts and results out of a conversation, as its request asks in `context_management`.

Thoughts go first, then the results of the oldest tool uses, in whose place stands a note. A client sends its
whole history each time, so that each rule depends on the conversation alone: what was once left out stays
out, and the prompt changes only where something more is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from ..context_edits import EditReport, ToolClearing
from ..formats.json_text import dump
from ..formats.thinking_signature import unseal
from ..schema import (
    AssistantMessage,
    CountTokensRequest,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

CLEARED = "[Old tool result cleared to save context]"

BYTES_PER_TOKEN = 4
"""About, of code and English: by which the tokens of single results are estimated."""


@dataclass(frozen=True, slots=True)
class StartedEdit:
    """An edit that leaves something out. num_before: tokens of the prompt without it."""

    kind: str  # the edit's type in the request
    unit: str  # the name of the field in which the response says how many were left out
    num_cleared: int
    num_before: int


@dataclass(frozen=True, slots=True)
class EditedRequest:
    """A request without what its edits have left out."""

    request: CountTokensRequest
    edits: tuple[StartedEdit, ...] = ()

    def report(self, num_tokens: int) -> EditReport | None:
        """Return what a response says; None where the request asks for no edits.

        num_tokens: of the request's prompt.
        """
        if self.request.context is None:
            return None
        counts = [*(edit.num_before for edit in self.edits), num_tokens]
        applied = [
            {"type": edit.kind, edit.unit: edit.num_cleared, "cleared_input_tokens": max(0, before - after)}
            for edit, (before, after) in zip(self.edits, pairwise(counts), strict=True)
        ]
        return EditReport(tuple(applied), counts[0])


def edit_context(request: CountTokensRequest, count: Callable[[CountTokensRequest], int]) -> EditedRequest:
    """Apply a request's edits. count: returns the tokens of a request's prompt, which takes its time."""
    context = request.context
    edits: list[StartedEdit] = []
    if context is not None and isinstance(context.kept_thoughts, int):
        messages, num_turns = _without_old_thoughts(request.messages, context.kept_thoughts)
        if num_turns:
            edits.append(
                StartedEdit(context.thinking_type, "cleared_thinking_turns", num_turns, count(request))
            )
            request = request.model_copy(update={"messages": messages})
    rule = context.tool_clearing if context is not None else None
    if rule is not None and (uses := _clearable(request.messages, rule)):
        num_before = count(request)
        size = num_before if rule.trigger.type == "input_tokens" else _num_uses(request.messages)
        if size > rule.trigger.value:
            edits.append(StartedEdit(rule.type, "cleared_tool_uses", len(uses), num_before))
            cleared = [_cleared(message, uses, rule) for message in request.messages]
            request = request.model_copy(update={"messages": cleared})
    return EditedRequest(request, tuple(edits))


def _without_old_thoughts(messages: list[Message], num_kept: int) -> tuple[list[Message], int]:
    """Leave out the thoughts of all turns but the last ones that have any; the user's words begin a turn.

    Also returns of how many turns they were left out.
    """
    turns = list(accumulate(map(_is_words, messages)))
    thinking = sorted({turn for turn, message in zip(turns, messages, strict=True) if _has_thoughts(message)})
    dropped = set(thinking[:-num_kept])
    return [
        _without_thoughts(message) if turn in dropped else message
        for turn, message in zip(turns, messages, strict=True)
    ], len(dropped)


def _is_words(message: Message) -> bool:
    return isinstance(message, UserMessage) and not any(
        isinstance(block, ToolResultBlock) for block in message.content
    )


def _has_thoughts(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and any(
        block.type == "thinking" and (block.thinking or unseal(block.signature)) for block in message.content
    )


def _without_thoughts(message: Message) -> Message:
    if not isinstance(message, AssistantMessage):
        return message
    content = [block for block in message.content if block.type != "thinking"]
    return message.model_copy(update={"content": content})


def _clearable(messages: list[Message], rule: ToolClearing) -> set[str]:
    """Return the ids of the calls whose results go once the rule's trigger is met.

    A result that is no longer than the note in its place stays. Where the rule names what must be won at
    least, calls go in groups of no less, from the oldest on: so the cached prompt changes no sooner than
    for that.
    """
    results = dict(_results(messages))
    excluded = frozenset(rule.exclude_tools)
    uses = [use for use in _uses(messages) if use.name not in excluded and use.id in results]
    least = rule.clear_at_least.value if rule.clear_at_least else 0
    cleared: list[str] = []
    group: list[str] = []
    num_tokens = 0
    for use in uses[: max(len(uses) - rule.keep.value, 0)]:
        num_bytes = max(_num_bytes(results[use.id]) - len(CLEARED), 0)
        num_bytes += len(dump(use.input)) if rule.clears_input(use.name) else 0
        if not num_bytes:
            continue
        group.append(use.id)
        num_tokens += num_bytes // BYTES_PER_TOKEN
        if num_tokens >= least:
            cleared += group
            group, num_tokens = [], 0
    return set(cleared)


def _num_bytes(result: ToolResultBlock) -> int:
    """Return the size of a result's text, and of what else it has as JSON."""
    parts = [
        block.text if isinstance(block, TextBlock) else dump(block.model_dump()) for block in result.content
    ]
    return len("".join(parts).encode("utf-8", "replace"))


def _is_longer(result: ToolResultBlock) -> bool:
    """Return whether a result is longer than the note that may stand in its place."""
    return _num_bytes(result) > len(CLEARED)


def _uses(messages: list[Message]) -> Iterator[ToolUseBlock]:
    for message in messages:
        if isinstance(message, AssistantMessage):
            yield from (block for block in message.content if isinstance(block, ToolUseBlock))


def _results(messages: list[Message]) -> Iterator[tuple[str, ToolResultBlock]]:
    for message in messages:
        if isinstance(message, UserMessage):
            for block in message.content:
                if isinstance(block, ToolResultBlock):
                    yield block.tool_use_id, block


def _num_uses(messages: list[Message]) -> int:
    return sum(1 for _ in _uses(messages))


def _cleared(message: Message, uses: set[str], rule: ToolClearing) -> Message:
    """Return a message with a note in the place of the results of some calls, and without their arguments."""
    content: list[Any] = []
    for block in message.content:
        if isinstance(block, ToolResultBlock) and block.tool_use_id in uses and _is_longer(block):
            block = ToolResultBlock(
                type="tool_result",
                tool_use_id=block.tool_use_id,
                content=[TextBlock(type="text", text=CLEARED)],
            )
        elif isinstance(block, ToolUseBlock) and block.id in uses and rule.clears_input(block.name):
            block = block.model_copy(update={"input": {}})
        content.append(block)
    return message.model_copy(update={"content": content})
