"""The fields by which OpenAI's clients ask for thinking, in the words of many servers."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..schema import ThinkingConfig
from ..wire_base import Wire, false_for_null

Json = Any


def _reasoning_form(reasoning: Json) -> Json:
    if isinstance(reasoning, str):
        return {"effort": reasoning}
    return {"enabled": reasoning} if isinstance(reasoning, bool) else reasoning


def _thinking_form(thinking: Json) -> Json:
    if isinstance(thinking, str):
        return {"type": thinking}
    return {"type": "enabled" if thinking else "disabled"} if isinstance(thinking, bool) else thinking


class Reasoning(Wire):
    """OpenRouter's settings of thoughts; OpenAI's own have an effort only."""

    effort: str | None = Field(default=None, max_length=20)
    enabled: bool | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    exclude: Annotated[bool, BeforeValidator(false_for_null)] = False


class ReasoningFields(Wire):
    """Whether, how much and how visibly the model is to think."""

    reasoning_effort: str | None = Field(default=None, max_length=20)
    reasoning: Annotated[Reasoning | None, BeforeValidator(_reasoning_form)] = None
    thinking: Annotated[ThinkingConfig | None, BeforeValidator(_thinking_form)] = None  # as Anthropic's
    think: bool | str | None = None  # as Ollama's: a switch or an effort
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(default=None, ge=0)
    thinking_token_budget: int | None = Field(default=None, ge=0)  # vLLM's name for it
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None

    @property
    def effort(self) -> str | None:
        """The effort of thinking, None where the request names none."""
        named = (self.reasoning_effort, self.reasoning and self.reasoning.effort, self.think)
        return next((effort for effort in named if isinstance(effort, str)), None)

    @property
    def omits_thoughts(self) -> bool:
        """Whether the answer is to leave its thoughts out."""
        return self.include_reasoning is False or (self.reasoning is not None and self.reasoning.exclude)

    def thinking_config(self) -> ThinkingConfig:
        """Return the fields in Anthropic's form, of the type "auto" where they switch nothing."""
        budget, switch = self._budget(), self._switch()
        if budget == 0:
            switch = False
        elif budget is not None and switch is None:
            switch = True
        kind = {None: "auto", True: "enabled", False: "disabled"}[switch]
        return ThinkingConfig(type=kind, budget_tokens=budget or None)

    def _switch(self) -> bool | None:
        switches = (
            self.enable_thinking,
            None if self.thinking is None else self.thinking.type != "disabled",
            None if isinstance(self.think, str) else self.think,
            None if self.reasoning is None else self.reasoning.enabled,
            None if self.effort is None else self.effort != "none",
        )
        return next((switch for switch in switches if switch is not None), None)

    def _budget(self) -> int | None:
        budgets = (
            self.thinking_budget,
            self.thinking_token_budget,
            self.thinking.budget_tokens if self.thinking else None,
            self.reasoning.max_tokens if self.reasoning else None,
        )
        return next((budget for budget in budgets if budget is not None), None)
