"""What one request says about thinking."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """Whether thoughts are wanted, and how many.

    forbidden: more than not wanted, which leaves the choice to the template, for models that always think are
    better than those that cannot.
    """

    wanted: bool = False
    effort: str | None = None
    num_tokens: int | None = None  # the budget, None for no bound
    forbidden: bool = False
