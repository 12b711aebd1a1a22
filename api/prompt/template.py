"""Renders conversations with a model's chat template, whose features are probed.

Templates differ in where they take system texts, in whether they show tools, and in the form of arguments.
Nothing is looked up by a model's name.
"""

import logging
from collections import abc
from typing import Any

from ..answer_options import ThinkingOptions
from ..formats.tool_calls.plain_format import EXAMPLE_ARGUMENTS, EXAMPLE_NAME, describe_tools, native_rules
from ..protocols import TemplateMessage, Tokenizer
from .abilities import Abilities
from .conversation_turns import Turn, split_turns
from .fitted_turns import PROBE_NAME, FittedTurns, probe_call
from .kept_thoughts import KeptThoughts, find_kept_thoughts
from .raw_template import LIMIT_S, RawTemplate, TemplateError
from .shown_tools import ShownTools
from .template_messages import model_turn, reminder, user_turn
from .template_probes import ANSWER, PROBE_TOOL, SYSTEM, USER, TemplateProbes
from .turn_forms import BEFORE_ANSWER

logger = logging.getLogger(__name__)


RESULT_TURN: TemplateMessage = {"role": "tool", "tool_call_id": "", "name": PROBE_NAME, "content": "-"}


class ChatTemplate:
    """Renders conversations with one tokenizer's template."""

    def __init__(self, tokenizer: Tokenizer, limit_s: float = LIMIT_S) -> None:
        """Probe the template. Raises TemplateTooSlow or BrokenTemplate."""
        probes = TemplateProbes(RawTemplate(tokenizer, limit_s), tokenizer)
        self.features = probes.find()
        self.call_text, self.tool_format = probes.call_text, probes.tool_format
        self._bos = getattr(tokenizer, "bos_token", None)
        self._own = probes.own(self.features)
        example = probes.example(self.features, EXAMPLE_NAME, EXAMPLE_ARGUMENTS)
        self._rules = native_rules(example) if self.features.tools_described else ""
        shows_thoughts = self.features.thoughts_key is not None
        self._native = FittedTurns(self._probe_turns, shows_thoughts)
        self._plain = FittedTurns(self._probe_turns, shows_thoughts, native_calls=False)
        self.abilities = self._find_abilities()
        thinks = self.features.thinking.settings(ThinkingOptions(wanted=True))
        self._thoughts = KeptThoughts()
        if shows_thoughts and self.features.native_tools:
            self._thoughts = find_kept_thoughts(self._try_loop, thinks)
        self._tools = ShownTools(lambda tools: self._own.probe([user_turn(USER)], tools))

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
        return "".join(self.render_open(system, messages, tools, thinking))

    def render_open(
        self,
        system: str,
        messages: abc.Sequence[TemplateMessage],
        tools: list[dict[str, Any]],
        thinking: ThinkingOptions,
        space: bytes = b"",
    ) -> tuple[str, str]:
        """Return the prompt, and the beginning of the answer that the model is to continue, as `render`.

        space: see ShownTools.
        """
        conversation = list(messages)
        answer_start = conversation.pop()["content"] if _continues_answer(conversation) else ""
        settings = self.features.thinking.settings(thinking)
        thoughts = self._thoughts if thinking.keeps_thoughts else KeptThoughts()
        settings = thoughts.settings | settings
        shown = self._tools.find(tools, space) if self.features.native_tools else None
        native_system = system
        if tools and self._rules:
            shown, native_system = [], f"{describe_tools(tools, self._rules)}\n\n{system}".rstrip()
        if shown is not None:
            try:
                text = thoughts.render(
                    conversation,
                    lambda turns: self._render(native_system, _turns_of(turns), shown, settings),
                )
                return text, answer_start
            except TemplateError as error:
                # Fitted turns were probed: what is refused now is of this conversation's own words.
                logger.warning("calls are written as plain text in this conversation: %s", error.message)
        if tools:
            system = f"{describe_tools(tools)}\n\n{system}".rstrip()
        return self._render(system, _turns_of(conversation), None, settings), answer_start

    def _render(
        self, system: str, turns: list[Turn], tools: list[dict[str, Any]] | None, settings: dict[str, Any]
    ) -> str:
        """Render turns. tools: those that the template shows; None writes calls as plain text."""
        fitted = self._plain if tools is None else self._native
        head: list[TemplateMessage] = []
        if system and self.features.system_first:
            head = [{"role": "system", "content": system}]
        elif system:
            turns = [[reminder(system)], *turns]
        apart = bool(tools) and self.features.tools_apart
        messages = [*head, *fitted.fit(turns, with_tools=bool(tools) and not apart)]
        shown_system = system if head else ""
        if not apart:
            return self._render_ordered(shown_system, messages, tools or [], settings)
        return self._with_tools(self._own.render(messages, [], settings), shown_system, tools or [], settings)

    def _render_ordered(
        self,
        system: str,
        messages: list[TemplateMessage],
        tools: list[dict[str, Any]],
        settings: dict[str, Any],
    ) -> str:
        """Render, and swap tools and system text where the template puts the system text first.

        Sessions share their tools more often than their system texts, so tools first share more KV.
        """
        text = self._own.render(messages, tools, settings)
        if not (tools and system):
            return text
        between = self._tools_after_system(tools, settings)
        for shown in (system, system.strip()):
            head = _split_once(text, shown + between) if between else None
            if head is not None:
                body = between.lstrip()
                gap = between[: len(between) - len(body)]
                return head[0] + body + gap + shown + head[1]
        return text

    def _tools_after_system(self, tools: list[dict[str, Any]], settings: dict[str, Any]) -> str:
        """Return the template's text for tools right after the system text; empty where there is none."""
        head = [{"role": "system", "content": SYSTEM}, user_turn(USER)]
        bare = _split_once(self._own.render(head, [], settings), SYSTEM)
        full = _split_once(self._own.render(head, tools, settings), SYSTEM)
        if bare is None or full is None or bare[0] != full[0] or not full[1].endswith(bare[1]):
            return ""
        return full[1][: len(full[1]) - len(bare[1])]

    def _with_tools(
        self, text: str, system: str, tools: list[dict[str, Any]], settings: dict[str, Any]
    ) -> str:
        """Return a text that was rendered without tools with them, where a first turn has them.

        Some templates show the tools before the last words of the user: no two turns would share a prompt.
        """
        head = [{"role": "system", "content": system}] if system else []
        bare, full = (self._own.render([*head, user_turn(USER)], shown, settings) for shown in ([], tools))
        place = next((i for i, (a, b) in enumerate(zip(bare, full, strict=False)) if a != b), 0)
        if not text.startswith(bare[:place]):
            raise TemplateError("it shows tools in no fixed place")
        return text[:place] + full[place : place + len(full) - len(bare)] + text[place:]

    def _find_abilities(self) -> Abilities:
        """Find what the template shows in its own form."""
        asked, answered = [user_turn(USER)], [user_turn(USER), model_turn(ANSWER)]
        native, with_tools = self.features.native_tools, self.features.tools_at_head

        def shows_call(num_calls: int, text: str = "") -> bool:
            turn = [model_turn(text) | {"tool_calls": [probe_call("", 0, i) for i in range(num_calls)]}]
            turn += [RESULT_TURN] * num_calls
            return native and self._native.shows(turn, [asked], with_tools)

        later: Turn = [{"role": "system", "content": SYSTEM}]
        result: Turn = [model_turn("") | {"tool_calls": [probe_call("")]}, RESULT_TURN]
        return Abilities(
            tools=native and not self.features.tools_described,
            several_calls=shows_call(2),
            text_with_a_call=shows_call(1, USER),
            thoughts=self.features.thoughts_key is not None,
            system_text=self.features.system_first,
            system_text_in_the_middle=self._native.shows(later, [answered[:1], answered[1:]], with_tools),
            words_after_a_result=native and self._native.shows(asked, [asked, result], with_tools),
        )

    def _try_loop(self, messages: abc.Sequence[TemplateMessage], settings: dict[str, Any]) -> str | None:
        """Render a probe with variables of the template; None where it is refused."""
        try:
            return self._own.render(messages, [] if self.features.tools_apart else [PROBE_TOOL], settings)
        except TemplateError:
            return None

    def _probe_turns(self, messages: abc.Sequence[TemplateMessage], with_tools: bool) -> str | None:
        """Render a probe, behind a system text where the template shows one; None where it is refused.

        A second token that begins a prompt is a refusal as well.
        """
        head = [{"role": "system", "content": SYSTEM}] if self.features.system_first else []
        text = self._own.probe([*head, *messages], [PROBE_TOOL] if with_tools else [])
        if text is None or (head and text.find(SYSTEM) > text.find(messages[0]["content"])):
            return None
        return None if self._bos and text.count(self._bos) > 1 else text


def _turns_of(messages: list[TemplateMessage]) -> list[Turn]:
    """Return a conversation's turns, of which it must have one."""
    return split_turns(messages) or [[user_turn(BEFORE_ANSWER)]]


def _continues_answer(messages: abc.Sequence[TemplateMessage]) -> bool:
    """Return whether the conversation ends with an answer that the model is to continue."""
    return bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]


def _split_once(text: str, part: str) -> tuple[str, str] | None:
    """Split at the only occurrence of `part`; None when it does not occur once."""
    parts = text.split(part)
    return (parts[0], parts[1]) if len(parts) == 2 else None
