"""What can stand in one answer beside plain text."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from .thinking_tags import ThinkingTags
from .tool_calls.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What can occur in an answer beside plain text.

    thinking: None for a model that has no tags for its thoughts.
    is_value: the text is kept to a schema; once it has begun, marks are a part of its strings.
    """

    stop_sequences: abc.Sequence[str] = ()
    tool_format: ToolFormat | None = None
    tools: abc.Sequence[dict[str, Any]] = ()
    thinking: ThinkingTags | None = None
    starts_thinking: bool = False
    one_call: bool = False  # end the answer after its first tool call
    is_value: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing but text can occur, so that no space need be held back."""
        return self.tool_format is None and self.thinking is None
