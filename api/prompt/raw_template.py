"""Renders messages with a tokenizer's chat template as they are, within a time limit."""

import json
import re
from collections import abc
from typing import Any

import jinja2

from ... import PensieveError
from ..errors import InvalidRequest
from ..protocols import TemplateMessage, Tokenizer
from .list_statements import without_changes
from .time_limit import TimeIsUp, run_limited

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


class BrokenTemplate(PensieveError):
    """The template's text is no Jinja template, so that it can render nothing."""


MAX_DEFAULTS = 8
FUNCTIONS = "functions"
UNDEFINED = re.compile(r"'(\w+)' is undefined")


class RawTemplate:
    """One tokenizer's template."""

    def __init__(self, tokenizer: Tokenizer, limit_s: float = LIMIT_S) -> None:
        """Try the template. Raises TemplateTooSlow or BrokenTemplate."""
        self._tokenizer = tokenizer
        self._limit_s = limit_s
        self._no_tools: list[dict[str, Any]] | None = None
        self._defaults: dict[str, Any] = {}  # variables that the template demands, as no text
        text = getattr(tokenizer, "chat_template", None)
        plain = without_changes(text) if isinstance(text, str) else text
        self._rewritten = {} if plain == text else {"chat_template": plain}
        for _ in range(MAX_DEFAULTS):
            missing = self._find_missing()
            if missing is None:
                break
            self._defaults[missing] = ""

    def render(
        self,
        messages: abc.Sequence[TemplateMessage],
        tools: abc.Sequence[dict[str, Any]],
        settings: dict[str, Any],
    ) -> str:
        """Render messages and tools with template variables, and the beginning of the model's answer.

        Raises TemplateError, TemplateTooSlow or BrokenTemplate.
        """

        shown = list(tools) or self._no_tools
        variables = {**self._defaults, **self._named_functions(tools), **settings, **self._rewritten}

        def render() -> Any:
            return self._tokenizer.apply_chat_template(
                messages, tools=shown, tokenize=False, add_generation_prompt=True, **variables
            )

        try:
            return str(run_limited(render, self._limit_s))
        except TimeIsUp as error:
            raise TemplateTooSlow(str(error)) from error
        except jinja2.TemplateSyntaxError as error:
            problem = f"line {error.lineno}: {error.message}"
            raise BrokenTemplate(f"the model's chat template has a syntax error in {problem}") from error
        except Exception as error:
            # A template is the model's code: any exception is its refusal of this conversation.
            raise TemplateError(str(error)[:300]) from error

    def _named_functions(self, tools: abc.Sequence[dict[str, Any]]) -> dict[str, str]:
        """Return the tools as a text under the name by which FireFunction's template demands them."""
        if FUNCTIONS not in self._defaults or not tools:
            return {}
        return {FUNCTIONS: json.dumps([tool["function"] for tool in tools], ensure_ascii=False, indent=4)}

    def _find_missing(self) -> str | None:
        """Return a variable without which the template renders nothing; None where it demands no other.

        A template that wants a list of tools, also of none, gets one.
        """
        problem = self._problem()
        if problem is None:
            return None
        if (missing := UNDEFINED.fullmatch(problem)) is not None:
            return missing[1]
        self._no_tools = []
        if (problem := self._problem()) is not None:
            self._no_tools = None
        missing = UNDEFINED.fullmatch(problem or "")
        return missing[1] if missing is not None else None

    def _problem(self) -> str | None:
        """Return what the template says to a single question; None where it renders it."""
        try:
            self.render([{"role": "user", "content": "Hello"}], [], {})
        except TemplateError as error:
            return str(error.__cause__)
        return None
