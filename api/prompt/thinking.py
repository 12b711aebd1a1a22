"""The variables by which a chat template controls thinking, and their values for a request's options."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..answer_options import EFFORT, SWITCH_NAMES, ThinkingOptions

BUDGET = "thinking_budget"

# The efforts that clients and templates name, each with its level.
EFFORT_LEVELS = {"none": 0.0, "minimal": 0.7, "low": 1.0, "medium": 2.0, "high": 3.0, "xhigh": 3.5}
EFFORT_LEVELS |= {"max": 4.0}
COMMON_EFFORTS = ("low", "medium", "high")

Render = Callable[[dict[str, Any]], str | None]
"""Renders a conversation with template variables; None where the template refuses them."""


@dataclass(frozen=True, slots=True)
class ThinkingFeatures:
    """The variables that one template reads."""

    switch: str | None = None  # the variable's name
    efforts: tuple[str, ...] = ()  # those that change the prompt, lowest first
    has_budget: bool = False

    def settings(self, thinking: ThinkingOptions) -> dict[str, Any]:
        """Return the template's variables for a request's options."""
        settings = dict(thinking.variables)
        if self.switch is not None and thinking.wanted is not None:
            settings[self.switch] = thinking.wanted
        if self.efforts and (effort := self._effort(thinking)) is not None:
            settings[EFFORT] = effort
        if self.has_budget and thinking.wanted is False:
            settings[BUDGET] = 0
        elif self.has_budget and thinking.num_tokens is not None:
            settings[BUDGET] = thinking.num_tokens
        return settings

    def _effort(self, thinking: ThinkingOptions) -> str | None:
        """Return the nearest effort that the template knows; None leaves the choice to the template."""
        if thinking.wanted is False:
            return self.efforts[0]
        level = EFFORT_LEVELS.get(thinking.effort or "")
        if level is None:
            return None
        return min(self.efforts, key=lambda known: abs(EFFORT_LEVELS[known] - level - 0.1))


NO_THINKING_FEATURES = ThinkingFeatures()


def find_thinking_features(render: Render) -> ThinkingFeatures:
    """Find the variables that change a rendered probe."""

    def tells_apart(name: str, *values: Any) -> bool:
        texts = [render({name: value}) for value in values]
        return None not in texts and len(set(texts)) == len(texts)

    return ThinkingFeatures(
        switch=next((name for name in SWITCH_NAMES if tells_apart(name, True, False)), None),
        efforts=_find_efforts(render),
        has_budget=tells_apart(BUDGET, 0, 512, 1024),
    )


def _find_efforts(render: Render) -> tuple[str, ...]:
    """Find the efforts that a template knows, lowest first; none where they all give one prompt."""
    plain, unknown = render({}), render({EFFORT: "probe"})
    if unknown not in (None, plain):
        # The template writes any effort into the prompt; its model knows the usual ones, but not "none".
        efforts: Iterable[str] = COMMON_EFFORTS
    else:
        efforts = EFFORT_LEVELS
    texts = {effort: text for effort in efforts if (text := render({EFFORT: effort})) is not None}
    # What gives the same prompt as an unknown effort is not known itself, unless it is the usual default.
    known = [effort for effort, text in texts.items() if text != unknown or effort == "medium"]
    return tuple(known) if len({texts[effort] for effort in known}) > 1 else ()
