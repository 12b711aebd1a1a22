"""A template together with the forms of ids, arguments and thoughts that it wants."""

from collections import abc
from dataclasses import dataclass
from typing import Any

from ..formats.tool_calls.tool_format import ToolFormat
from ..protocols import TemplateMessage
from .raw_template import RawTemplate, TemplateError
from .template_messages import SENT, with_ids, with_text_arguments, with_written_calls
from .thinking import NO_THINKING_FEATURES, ThinkingFeatures


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """The messages and fields that one template shows, and their form."""

    system_first: bool = False  # shows a system message at the head, in all conversations
    native_tools: bool = False  # shows calls and results, in a format that can be read back
    tools_apart: bool = False  # shows tools in another place each turn, unless they are rendered apart
    tools_described: bool = False  # shows no tools: the system text describes them
    text_arguments: bool = False  # wants a call's arguments as a JSON string, not as an object
    id_form: str = SENT  # of the ids of calls, see ID_FORMS
    thoughts_key: str | None = None  # the message's key from which it reads thoughts, None if it shows none
    thinking: ThinkingFeatures = NO_THINKING_FEATURES
    written_calls: ToolFormat | None = None  # shows tools, but calls only in an answer's text, in this format

    @property
    def tools_at_head(self) -> bool:
        """Whether the template shows calls, and tools at the head of each conversation."""
        return self.native_tools and not self.tools_apart and not self.tools_described


class OwnTemplate:
    """Renders messages in the template's own form."""

    def __init__(self, raw: RawTemplate, features: TemplateFeatures) -> None:
        self._raw = raw
        self._features = features

    def render(
        self,
        messages: abc.Sequence[TemplateMessage],
        tools: abc.Sequence[dict[str, Any]],
        settings: dict[str, Any],
    ) -> str:
        """Render messages. Raises TemplateError or TemplateTooSlow."""
        own = [self._in_own_form(message) for message in with_ids(messages, self._features.id_form)]
        return self._raw.render(own, tools, settings)

    def probe(
        self, messages: abc.Sequence[TemplateMessage], tools: abc.Sequence[dict[str, Any]] = ()
    ) -> str | None:
        """Render a probe as the template's defaults are; None when it is refused. Raises TemplateTooSlow."""
        try:
            return self.render(messages, tools, {})
        except TemplateError:
            return None

    def _in_own_form(self, message: TemplateMessage) -> TemplateMessage:
        if self._features.written_calls is not None and "tool_calls" in message:
            return with_written_calls(message, self._features.written_calls)
        if self._features.text_arguments and "tool_calls" in message:
            message = message | {"tool_calls": [with_text_arguments(call) for call in message["tool_calls"]]}
        key = self._features.thoughts_key
        if "reasoning_content" in message and key != "reasoning_content":
            message = dict(message)
            thoughts = message.pop("reasoning_content")
            if key is not None:
                message[key] = thoughts
        return message
