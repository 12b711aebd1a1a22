"""The variables by which a chat template controls thinking, and their values for a request's options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..answer_options import ThinkingOptions

# Names of the variables: thinking on or off, its effort, and its budget in tokens.
SWITCH_NAMES = ("enable_thinking", "thinking")
EFFORT, EFFORT_NAMES = "reasoning_effort", ("none", "low", "medium", "high")
BUDGET = "thinking_budget"

# Efforts that some clients ask for, and the nearest of EFFORT_NAMES.
NEAREST_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}

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
        """Return the nearest effort that the template knows; None leaves the choice to the template."""
        if not thinking.wanted:
            return self.efforts[0]
        effort = NEAREST_EFFORTS.get(thinking.effort or "", thinking.effort)
        if effort not in EFFORT_NAMES:
            return None
        wanted = EFFORT_NAMES.index(effort)
        return min(self.efforts, key=lambda known: abs(EFFORT_NAMES.index(known) - wanted - 0.1))


NO_THINKING_FEATURES = ThinkingFeatures()


def find_thinking_features(render: Render) -> ThinkingFeatures:
    """Find the variables that change a rendered probe."""

    def tells_apart(name: str, *values: Any) -> bool:
        texts = [render({name: value}) for value in values]
        return None not in texts and len(set(texts)) == len(texts)

    # Some templates write any effort into the prompt; their models do not know "none", so it is left out.
    prints_any = render({EFFORT: "probe"}) not in (None, render({}))
    efforts = [effort for effort in EFFORT_NAMES[prints_any:] if render({EFFORT: effort}) is not None]
    return ThinkingFeatures(
        switch=next((name for name in SWITCH_NAMES if tells_apart(name, True, False)), None),
        efforts=tuple(efforts) if len(efforts) > 1 and tells_apart(EFFORT, *efforts) else (),
        has_budget=tells_apart(BUDGET, 0, 512, 1024),
    )
