"""Probes that are rendered once, when the server starts, and find out what a chat template shows.

The values of the probes are as they occur: ids as this server makes them, texts with quotes and line breaks.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..formats import harmony
from ..formats.tag_follower import TagSet
from ..formats.thinking_tags import find_silent_marks, has_marks
from ..formats.tool_calls.native_formats import native_formats
from ..formats.tool_calls.tool_format import ToolFormat
from ..protocols import TemplateMessage, Tokenizer
from .fitted_turns import PROBE_KEY, PROBE_NAME, in_order, probe_call
from .own_template import OwnTemplate, TemplateFeatures
from .raw_template import RawTemplate, TemplateError
from .round_trip import read_calls
from .template_messages import ID_FORMS, IN_TURN, NAMED, SENT, model_turn, number_name, user_turn
from .thinking import find_thinking_features

SYSTEM, USER, ANSWER, LATER, RESULT, THOUGHT, VALUE, DESCRIPTION = (
    "probe-system",
    "probe-user",
    "probe-answer",
    "probe-later",
    "probe-result",
    "probe-thought",
    "probe-value",
    "probe-description",
)

# Names by which templates read the thoughts of an earlier answer.
THOUGHTS_KEYS = ("reasoning_content", "thinking", "reasoning")

PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": PROBE_NAME,
        "description": DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {
                PROBE_KEY: {"type": "string", "description": "A value."},
                "probe_count": {"type": "integer", "description": "How many."},
            },
            "required": [PROBE_KEY],
        },
    },
}
ARGUMENTS = {PROBE_KEY: f'{VALUE} "quoted"\n  and <more>', "probe_count": 2}
PLAIN_ARGUMENTS = {PROBE_KEY: VALUE, "probe_count": 1}

# Single quotes are of a printed Python object, escaped ones of JSON that was encoded twice.
WRONG = (f"'{PROBE_KEY}'", f'\\"{PROBE_KEY}')


class TemplateProbes:
    """Probes one template."""

    def __init__(self, raw: RawTemplate, tokenizer: Tokenizer) -> None:
        self._raw, self._tokenizer = raw, tokenizer
        self._ends, self._silent = end_texts(tokenizer), find_silent_marks(tokenizer)
        self._formats = native_formats(tokenizer)
        self.tool_format: ToolFormat | None = None  # in which calls can be read back
        self._thinking = TemplateFeatures(thinking=find_thinking_features(self._try_settings))
        self.call_text = ""  # a plain call as the template writes it, from its start tag on

    def find(self) -> TemplateFeatures:
        """Find the template's features. Raises TemplateTooSlow or BrokenTemplate."""
        features = self._find_tools()
        features = replace(features, id_form=self._find_ids(features))
        key = next((key for key in THOUGHTS_KEYS if self._shows_thoughts(key, features)), None)
        features = replace(features, thoughts_key=key)
        return replace(features, system_first=self._shows_system(features))

    def _find_ids(self, features: TemplateFeatures) -> str:
        """Return the form of ids, which results need as well where the template itself numbers the calls."""
        if features.id_form != SENT or number_name(PROBE_NAME, 0) not in self.call_text:
            return features.id_form
        text = self.own(features).probe([*call_turns(), *call_turns()], [PROBE_TOOL])
        return NAMED if text is not None and number_name(PROBE_NAME, 1) in text else IN_TURN

    def own(self, features: TemplateFeatures) -> OwnTemplate:
        """Return the template with some features."""
        return OwnTemplate(self._raw, features)

    def _try_settings(self, settings: dict[str, Any]) -> str | None:
        try:
            return self._raw.render([user_turn(USER)], [], settings)
        except TemplateError:
            return None

    def _find_tools(self) -> TemplateFeatures:
        """Find the form in which the template shows tools, and calls that can be read back."""
        base = self._thinking
        forms = [(ids, as_text) for ids in ID_FORMS for as_text in (False, True)]
        for apart, described in ((False, False), (True, False), (False, True)):
            native = replace(base, native_tools=True, tools_apart=apart, tools_described=described)
            for ids, as_text in forms:
                features = replace(native, text_arguments=as_text, id_form=ids)
                if self._shows_calls(features, self._formats):
                    return features
        for written in filter(self._may_write, self._formats) if self._hides_calls() else ():
            features = replace(base, native_tools=True, written_calls=written)
            if self._shows_calls(features, [written]):
                return features
        self.call_text, self.tool_format = "", None
        return base

    def _hides_calls(self) -> bool:
        """Whether the template shows calls in no way at all, so that they may be written for it."""
        forms = [replace(self._thinking, text_arguments=as_text) for as_text in (False, True)]
        texts = [self.own(form).probe(call_turns(), [PROBE_TOOL]) for form in forms]
        return not any(text is not None and VALUE in text for text in texts)

    def _may_write(self, tool_format: ToolFormat) -> bool:
        """Whether the model knows a format's tags, so that calls may be written for it in the format."""
        tags = [tag for tag in (tool_format.start, tool_format.end) if tag]
        return tool_format.syntax.write is not None and bool(tags) and has_marks(self._tokenizer, tags)

    def _shows_calls(self, features: TemplateFeatures, formats: Iterable[ToolFormat]) -> bool:
        """Whether the template shows tools and calls with some features, in one of some formats."""
        own = self.own(features)
        tools = [PROBE_TOOL] if features.tools_at_head else []
        first = own.probe([user_turn(USER)], [] if features.tools_described else [PROBE_TOOL])
        text = own.probe(call_turns(), tools)
        if first is None or text is None or not (features.tools_described or DESCRIPTION in first):
            return False
        if features.tools_apart and not in_order(first, [DESCRIPTION, USER]):
            return False
        later = own.probe([user_turn(USER), model_turn(ANSWER), user_turn(LATER)], tools)
        head = [DESCRIPTION] if tools else []
        is_shown = in_order(text, [USER, VALUE, RESULT]) and in_order(text, [*head, VALUE])
        is_stable = later is not None and in_order(later, [USER, ANSWER, LATER])
        is_stable = is_stable and later is not None and in_order(later, [*head, ANSWER])
        if not is_shown or not is_stable or any(part in text for part in WRONG):
            return False
        plain = own.probe(call_turns(PLAIN_ARGUMENTS), tools)
        if plain is None:
            return False
        opening = first.partition(USER)[2]
        for tool_format in formats:
            if self._reads(tool_format, text, opening, ARGUMENTS) is None:
                continue
            call = self._reads(tool_format, plain, opening, PLAIN_ARGUMENTS)
            if call is not None:
                self.call_text, self.tool_format = call, tool_format
                return True
        return False

    def _reads(
        self, tool_format: ToolFormat, text: str, opening: str, arguments: dict[str, Any]
    ) -> str | None:
        """Return the call in a rendered probe, None where it does not come back when it is read in a format.

        opening: the beginning of an answer, right after which a call without a start tag must stand.
        """
        place, written = self._find_call(tool_format, text, PROBE_NAME)
        if not tool_format.start and self._without_marks(written[:place]) != self._without_marks(opening):
            return None
        calls = read_calls(tool_format, written, [PROBE_TOOL])
        return written[place:] if calls == [(PROBE_NAME, arguments)] else None

    def _without_marks(self, text: str) -> str:
        """Return a text without the marks that count for nothing in an answer."""
        for mark in self._silent:
            text = text.replace(mark, "")
        return text.strip()

    def _find_call(self, tool_format: ToolFormat, text: str, name: str) -> tuple[int, str]:
        """Return the text from the user's words to the end of the call in a probe, and the call's place."""
        written = text.partition(USER)[2].partition(RESULT)[0]
        if tool_format.start == harmony.CALL_START:
            written = harmony.rewritten(written)
        place, _ = TagSet(tool_format.starts([name])).find_first(written) or (0, "")
        ends = [
            written.find(end, place)
            for end in self._ends
            if end != tool_format.end and end in written[place:]
        ]
        written = written[: min(ends, default=len(written))]
        if end := tool_format.end:
            written = written[: written.rfind(end) + len(end)]
        return place, written

    def example(self, features: TemplateFeatures, name: str, arguments: dict[str, Any]) -> str:
        """Return a call as the template writes it, empty where it shows none that is read back."""
        if self.tool_format is None:
            return ""
        text = self.own(features).probe(call_turns(arguments, name=name))
        place, written = self._find_call(self.tool_format, text or "", name)
        return written[place:]

    def _shows_thoughts(self, key: str, features: TemplateFeatures) -> bool:
        """Return whether the template shows thoughts under `key`, at least in an answer that makes a call."""
        own = self.own(replace(features, thoughts_key=key))
        answer = model_turn(ANSWER) | {"reasoning_content": THOUGHT}
        text = own.probe([user_turn(USER), answer])
        if text is not None and in_order(text, [USER, THOUGHT, ANSWER]):
            return True
        tools = [PROBE_TOOL] if features.tools_at_head else []
        call = own.probe(call_turns(reasoning_content=THOUGHT), tools) if features.native_tools else None
        return call is not None and in_order(call, [USER, THOUGHT, VALUE, RESULT])

    def _shows_system(self, features: TemplateFeatures) -> bool:
        """Return whether the template shows a system message first in all conversations."""
        own = self.own(features)
        system, answered = {"role": "system", "content": SYSTEM}, [model_turn(ANSWER), user_turn(LATER)]
        probes: list[tuple[list[TemplateMessage], list[str]]] = [
            ([user_turn(USER)], [USER]),
            ([user_turn(USER), *answered], [USER, ANSWER, LATER]),
        ]
        if features.native_tools:
            probes.append((call_turns(), [USER, VALUE, RESULT]))
        for tools in ([], [PROBE_TOOL]) if features.tools_at_head else ([],):
            texts = [(own.probe([system, *turns], tools), wanted) for turns, wanted in probes]
            if not all(text is not None and in_order(text, [SYSTEM, *wanted]) for text, wanted in texts):
                return False
        return True


def end_texts(tokenizer: Tokenizer) -> list[str]:
    """Return the texts of the tokens that end an answer; such a token is no text where a model writes it."""
    ids: Iterable[int] = getattr(tokenizer, "eos_token_ids", ())
    return [text for token in ids if (text := tokenizer.decode([token]))]


def call_turns(
    arguments: dict[str, Any] | None = None, name: str = PROBE_NAME, **more: Any
) -> list[TemplateMessage]:
    """Return a conversation in which the model makes a call and gets its result. more: of the answer."""
    call = probe_call(VALUE)
    call["function"] = {"name": name, "arguments": arguments or ARGUMENTS}
    result = {"role": "tool", "tool_call_id": call["id"], "name": name, "content": RESULT}
    return [user_turn(USER), model_turn("") | {"tool_calls": [call]} | more, result]
