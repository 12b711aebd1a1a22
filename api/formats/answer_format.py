"""The format of one answer: its tags, tools and stop sequences."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from .readers.call_reader import tool_names
from .tag_follower import AnswerTags
from .thinking_tags import ThinkingTags
from .tool_calls.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The tags that mark one answer's parts, and the conditions on which the parser ends the answer.

    tool_format: None for an answer that may call no tool. tools: all of the request's.
    thinking: None for a model that has no tags for its thoughts.
    silent: marks around the model's text, which are no part of it.
    wrap: tags that are no part of the text where the first begins it and the second ends it.
    starts_thinking: the prompt has opened the model's thoughts.
    untagged: names of the tools whose calls may come without tags; None for those of all tools.
    begun: a mark's beginning at the prompt's end, with which the answer goes on.
    one_call: the answer ends after its first tool call.
    is_value: the text is a value of a schema; once the value has begun, tags in it are part of its strings.
    """

    stop_sequences: abc.Sequence[str] = ()
    tool_format: ToolFormat | None = None
    tools: abc.Sequence[dict[str, Any]] = ()
    thinking: ThinkingTags | None = None
    starts_thinking: bool = False
    one_call: bool = False
    is_value: bool = False
    silent: abc.Sequence[str] = ()
    wrap: tuple[str, str] | None = None
    begun: str = ""
    untagged: abc.Set[str] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the answer holds only text, so that no space need be held back."""
        return self.tool_format is None and self.thinking is None and not self.silent and not self.wrap

    @property
    def untagged_tools(self) -> dict[str, frozenset[str]]:
        """What each tool requires whose calls may come without tags, as plain JSON; by the tool's name."""
        has_json = self.tool_format is not None and self.tool_format.syntax.is_plain_json
        if not has_json or self.is_value:
            return {}
        tools = [tool["function"] for tool in self.tools]
        return {
            tool["name"]: _required(tool.get("parameters"))
            for tool in tools
            if self.untagged is None or tool["name"] in self.untagged
        }

    @property
    def tags(self) -> AnswerTags[str]:
        """The tags to follow."""
        call, thinking = self.tool_format, self.thinking
        return AnswerTags(
            calls=call.starts(tool_names(self.tools)) if call else (),
            call_end=call.end if call else None,
            thinking=(thinking.start, thinking.end) if thinking else None,
            stop_sequences=self.stop_sequences,
            silent=(*self.silent, *(self.wrap or ())),
        )


def _required(schema: Any) -> frozenset[str]:
    """Return the arguments that a schema requires; none where it cannot be read."""
    names = schema.get("required") if isinstance(schema, dict) else None
    return (
        frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()
    )
