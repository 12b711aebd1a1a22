"""What a chat template shows as it is, in one line for the server's start and its state."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one template shows in its own form. What it does not show is rewritten, but for thoughts."""

    tools: bool
    several_calls: bool  # in one answer
    text_with_a_call: bool
    words_after_a_result: bool
    system_text: bool
    system_text_in_the_middle: bool
    thoughts: bool  # of earlier answers, at least of those since the user's last words

    def __str__(self) -> str:
        """Return the line."""
        shown = [name.replace("_", " ") for name, can in asdict(self).items() if can]
        missing = [name.replace("_", " ") for name, can in asdict(self).items() if not can]
        rewritten = [name for name in missing if name != "thoughts"]
        parts = [f"shows {', '.join(shown)}" if shown else "shows plain talk alone"]
        if rewritten:
            parts.append(f"rewritten for it: {', '.join(rewritten)}")
        if not self.thoughts:
            parts.append("leaves out thoughts of earlier answers")
        return "; ".join(parts)
