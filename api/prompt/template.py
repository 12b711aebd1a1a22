"""Renders conversations with a model's chat template. Probes that are rendered once find its features.

Templates differ in where they take system texts, in whether they show tools, and in the form of arguments.
Nothing is looked up by a model's name.
"""

from collections import abc
from dataclasses import dataclass
from typing import Any

from ..answer_options import ThinkingOptions
from ..errors import InvalidRequest
from ..formats.tool_calls.plain_format import describe_tools
from ..formats.tool_calls.tool_format import native_format
from ..protocols import TemplateMessage, Tokenizer
from .template_messages import (
    merge_users,
    model_turn,
    reminder,
    user_turn,
    with_text_arguments,
    without_tools,
)
from .thinking import NO_THINKING_FEATURES, ThinkingFeatures, find_thinking_features
from .time_limit import TimeIsUp, run_limited

SYSTEM, USER, ANSWER, LATER, RESULT, THOUGHT = (
    "probe-system",
    "probe-user",
    "probe-answer",
    "probe-later",
    "probe-result",
    "probe-thought",
)

# Names by which templates read the thoughts of an earlier answer.
THOUGHTS_KEYS = ("reasoning_content", "thinking", "reasoning")

PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe-description",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}


LIMIT_S = 5.0
"""Limit of one rendering; a conversation of 70,000 tokens takes some 10 ms."""


class TemplateError(InvalidRequest):
    """The template refuses the conversation, or fails on it."""

    def __init__(self, problem: str) -> None:
        message = f"the model's chat template cannot render this conversation: {problem}"
        super().__init__(message, reason="template")


class TemplateTooSlow(InvalidRequest):
    """Rendering takes longer than the limit."""

    def __init__(self, problem: str) -> None:
        message = f"the model's chat template does not come to an end: {problem}"
        super().__init__(message, reason="template")


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """The messages and fields that one template shows, and their form."""

    system_first: bool  # shows a system message at the head
    system_later: bool  # shows a later system message in its place
    user_runs: bool  # shows two user messages in a row
    native_tools: bool  # shows tools, calls and results, in a format that can be read back
    text_arguments: bool  # wants a call's arguments as a JSON string, not as an object
    thoughts_key: str | None = None  # the message's key from which it reads thoughts, None if it shows none
    thoughts_exclude_text: bool = False  # refuses a call with both thoughts and text before it
    thinking: ThinkingFeatures = NO_THINKING_FEATURES


class ChatTemplate:
    """Renders conversations with one tokenizer's template."""

    def __init__(self, tokenizer: Tokenizer, limit_s: float = LIMIT_S) -> None:
        """Probe the template. Raises TemplateTooSlow."""
        self._tokenizer = tokenizer
        self._limit_s = limit_s
        self.features = TemplateFeatures(False, False, False, False, False)  # for rendering the probes
        self.features = self._probe()

    def render(
        self,
        system: str,
        messages: abc.Sequence[TemplateMessage],
        tools: list[dict[str, Any]],
        thinking: ThinkingOptions,
    ) -> str:
        """Return a conversation as the model's prompt, with the tools before the system text.

        A last assistant message is left open, for the model to continue it.
        Raises TemplateError or TemplateTooSlow.
        """
        native = self.features.native_tools
        conversation = list(messages) if native else [without_tools(message) for message in messages]
        if tools and not native:
            system = f"{describe_tools(tools)}\n\n{system}".rstrip()
        answer_start = conversation.pop()["content"] if _continues_answer(conversation) else ""
        shown_tools = tools if native else []
        return self._render_ordered(system, conversation, shown_tools, thinking) + answer_start

    def _render_ordered(
        self,
        system: str,
        messages: list[TemplateMessage],
        tools: list[dict[str, Any]],
        thinking: ThinkingOptions,
    ) -> str:
        """Render, and swap tools and system text where the template puts the system text first.

        Sessions share their tools more often than their system texts, so tools first share more KV.
        """
        text = self._apply(self._arrange(system, messages), tools, thinking)
        if not (tools and system and self.features.system_first):
            return text
        between = self._tools_after_system(tools, thinking)
        for shown in (system, system.strip()):
            head = _split_once(text, shown + between) if between else None
            if head is not None:
                body = between.lstrip()
                gap = between[: len(between) - len(body)]
                return head[0] + body + gap + shown + head[1]
        return text

    def _tools_after_system(self, tools: list[dict[str, Any]], thinking: ThinkingOptions) -> str:
        """Return the template's text for tools right after the system text; empty where there is none."""
        head = self._arrange(SYSTEM, [user_turn(USER)])
        bare = _split_once(self._apply(head, [], thinking), SYSTEM)
        full = _split_once(self._apply(head, tools, thinking), SYSTEM)
        if bare is None or full is None or bare[0] != full[0] or not full[1].endswith(bare[1]):
            return ""
        return full[1][: len(full[1]) - len(bare[1])]

    def _arrange(self, system: str, messages: abc.Sequence[TemplateMessage]) -> list[TemplateMessage]:
        """Fit a conversation to the template: system texts that it cannot show become the user's messages."""
        arranged: list[TemplateMessage] = []
        if system:
            head = {"role": "system", "content": system}
            arranged.append(head if self.features.system_first else reminder(system))
        for message in messages:
            if message["role"] == "system" and not self.features.system_later:
                message = reminder(message["content"])
            arranged.append(self._with_thoughts(self._with_arguments(message)))
        return arranged if self.features.user_runs and self.features.native_tools else merge_users(arranged)

    def _with_arguments(self, message: TemplateMessage) -> TemplateMessage:
        """Return a message with its calls' arguments in the form that the template reads."""
        if not self.features.text_arguments or "tool_calls" not in message:
            return message
        return message | {"tool_calls": [with_text_arguments(call) for call in message["tool_calls"]]}

    def _with_thoughts(self, message: TemplateMessage) -> TemplateMessage:
        """Return a message with its thoughts under the template's key, without thoughts where it has none."""
        if "reasoning_content" not in message or self.features.thoughts_key == "reasoning_content":
            return message
        moved = {key: value for key, value in message.items() if key != "reasoning_content"}
        is_full = self.features.thoughts_exclude_text and message["content"] and "tool_calls" in message
        if self.features.thoughts_key is not None and not is_full:
            moved[self.features.thoughts_key] = message["reasoning_content"]
        return moved

    def _apply(
        self,
        messages: abc.Sequence[TemplateMessage],
        tools: list[dict[str, Any]],
        thinking: ThinkingOptions = ThinkingOptions(),  # noqa: B008  (frozen)
    ) -> str:
        return self._apply_with(messages, tools, self.features.thinking.settings(thinking))

    def _apply_with(
        self, messages: abc.Sequence[TemplateMessage], tools: list[dict[str, Any]], settings: dict[str, Any]
    ) -> str:
        def render() -> Any:
            return self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=True, **settings
            )

        try:
            return str(run_limited(render, self._limit_s))
        except TimeIsUp as error:
            raise TemplateTooSlow(str(error)) from error
        except Exception as error:
            # A template is the model's code: any exception is its refusal of this conversation.
            raise TemplateError(str(error)[:300]) from error

    def _try_settings(self, settings: dict[str, Any]) -> str | None:
        """Render a probe with template variables; None when the template refuses them."""
        try:
            return self._apply_with([user_turn(USER)], [], settings)
        except TemplateError:
            return None

    def _probe(self) -> TemplateFeatures:
        system, user, answer = {"role": "system", "content": SYSTEM}, user_turn(USER), model_turn(ANSWER)
        later = {"role": "system", "content": LATER}
        first = self._shows([system, user], [SYSTEM, USER])
        head = [system, user] if first else [user]
        native, text_arguments = self._probe_tools()
        key = next((key for key in THOUGHTS_KEYS if self._shows_thoughts(key, native)), None)
        return TemplateFeatures(
            system_first=first,
            system_later=self._shows(
                [*head, later, answer, user_turn(RESULT)], [USER, LATER, ANSWER, RESULT]
            ),
            user_runs=self._shows([user_turn(LATER), user], [LATER, USER]),
            native_tools=native,
            text_arguments=text_arguments,
            thoughts_key=key,
            thoughts_exclude_text=key is not None and native and not self._takes_text_with(key),
            thinking=find_thinking_features(self._try_settings),
        )

    def _shows_thoughts(self, key: str, native: bool) -> bool:
        """Return whether the template shows thoughts under `key`, at least in an answer that makes a call."""
        answer, wanted = model_turn(ANSWER) | {key: THOUGHT}, [USER, THOUGHT]
        if self._shows([user_turn(USER), answer], [*wanted, ANSWER]):
            return True
        return native and self._shows(
            _probe_call(answer | {"content": ""}), [*wanted, RESULT], (), [PROBE_TOOL]
        )

    def _takes_text_with(self, key: str) -> bool:
        try:
            self._apply(_probe_call(model_turn(ANSWER) | {key: THOUGHT}), [PROBE_TOOL])
        except TemplateError:
            return False
        return True

    def _probe_tools(self) -> tuple[bool, bool]:
        """Return whether the template shows tools, and whether a call's arguments must be JSON text."""
        if native_format(self._tokenizer) is None:
            return False, False
        for text_arguments in (False, True):
            messages = _probe_call(model_turn(""), text_arguments)
            # Single quotes are of a printed Python object, escaped ones of JSON that was encoded twice.
            wrong = ["'probe_key'", '\\"probe_key']
            if self._shows(messages, ["probe-description", "probe-value", RESULT], wrong, [PROBE_TOOL]):
                return True, text_arguments
        return False, False

    def _shows(
        self,
        messages: list[TemplateMessage],
        wanted: list[str],
        unwanted: abc.Sequence[str] = (),
        tools: abc.Sequence[dict[str, Any]] = (),
    ) -> bool:
        """Return whether a conversation renders with the wanted texts in order and with no unwanted one."""
        try:
            text = self._apply(messages, list(tools))
        except TemplateError:
            return False
        places = [text.find(part) for part in wanted]
        return -1 not in places and places == sorted(places) and not any(part in text for part in unwanted)


def _probe_call(answer: TemplateMessage, text_arguments: bool = False) -> list[TemplateMessage]:
    """Return a conversation in which the model makes a call and gets its result."""
    function = {"name": "probe_tool", "arguments": {"probe_key": "probe-value"}}
    call: TemplateMessage = {"type": "function", "id": "probe00id", "function": function}
    calls = [with_text_arguments(call) if text_arguments else call]
    result = {"role": "tool", "tool_call_id": "probe00id", "name": "probe_tool", "content": RESULT}
    return [user_turn(USER), answer | {"tool_calls": calls}, result]


def _continues_answer(messages: abc.Sequence[TemplateMessage]) -> bool:
    """Return whether the conversation ends with an answer that the model is to continue."""
    return bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]


def _split_once(text: str, part: str) -> tuple[str, str] | None:
    """Split at the only occurrence of `part`; None when it does not occur once."""
    parts = text.split(part)
    return (parts[0], parts[1]) if len(parts) == 2 else None
