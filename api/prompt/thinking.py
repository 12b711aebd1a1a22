"""What a template lets a request say about thinking, in the template's own words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..thinking_options import ThinkingOptions

# What templates call the switch; how much thinking they can be asked for; and how many tokens of it.
SWITCH_NAMES = ("enable_thinking", "thinking")
EFFORT, EFFORT_NAMES = "reasoning_effort", ("none", "low", "medium", "high")
BUDGET = "thinking_budget"

MORE = {
    "minimal": "low",
    "xhigh": "high",
    "max": "high",
}  # words of some clients for what is beyond the scale

Render = Callable[[dict[str, Any]], str | None]
"""Renders a conversation with settings; None where the template refuses them."""


@dataclass(frozen=True, slots=True)
class ThinkingFeatures:
    """What one template understands."""

    switch: str | None = None  # the name of its switch
    efforts: tuple[str, ...] = ()  # that it tells apart
    has_budget: bool = False

    def settings(self, thinking: ThinkingOptions) -> dict[str, Any]:
        """Put a request's wishes into the template's variables."""
        settings: dict[str, Any] = {}
        if self.switch is not None:
            settings[self.switch] = thinking.wanted
        if self.efforts and (effort := self._effort(thinking)) is not None:
            settings[EFFORT] = effort
        if self.has_budget and not thinking.wanted:
            settings[BUDGET] = 0
        elif self.has_budget and thinking.num_tokens is not None:
            settings[BUDGET] = thinking.num_tokens
        return settings

    def _effort(self, thinking: ThinkingOptions) -> str | None:
        """Choose the nearest effort that the template knows; None leaves the choice to it."""
        if not thinking.wanted:
            return self.efforts[0]
        effort = MORE.get(thinking.effort or "", thinking.effort)
        if effort not in EFFORT_NAMES:
            return None
        wanted = EFFORT_NAMES.index(effort)
        return min(self.efforts, key=lambda known: abs(EFFORT_NAMES.index(known) - wanted - 0.1))


NO_THINKING_FEATURES = ThinkingFeatures()


def find_thinking_features(render: Render) -> ThinkingFeatures:
    """Find out by rendering what a template understands."""

    def tells_apart(name: str, *values: Any) -> bool:
        texts = [render({name: value}) for value in values]
        return None not in texts and len(set(texts)) == len(texts)

    # Some templates print any word for the effort. Of "none" their models know nothing.
    prints_any = render({EFFORT: "probe"}) not in (None, render({}))
    efforts = [effort for effort in EFFORT_NAMES[prints_any:] if render({EFFORT: effort}) is not None]
    return ThinkingFeatures(
        switch=next((name for name in SWITCH_NAMES if tells_apart(name, True, False)), None),
        efforts=tuple(efforts) if len(efforts) > 1 and tells_apart(EFFORT, *efforts) else (),
        has_budget=tells_apart(BUDGET, 0, 512, 1024),
    )
