"""Settings of the scheduler; `pensieve serve` makes a flag of each field."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The limits of a step and of the queue."""

    max_batch: int = field(default=32, metadata={"help": "sequences decoded together"})
    step_tokens: int | None = field(
        default=None,
        metadata={
            "help": "tokens one step may compute; a long prompt is prefilled in such slices (default: what "
            "the device can use)"
        },
    )
    itl_target_ms: float = field(
        default=250.0,
        metadata={
            "help": "time between tokens, in milliseconds, to which slices of prompts are cut; prompts get "
            "at least half of such a step, whatever the target"
        },
    )
    max_waiting: int = field(
        default=1024, metadata={"help": "requests that may wait; beyond it, 529 with a retry-after"}
    )
    max_wait_s: float = field(
        default=600.0,
        metadata={
            "help": "seconds that a request may wait for its first step; then it gets an overloaded_error, "
            "as a 529 or in its stream"
        },
    )

    def with_step_tokens(self, num_tokens: int) -> "SchedulerConfig":
        """Return the settings with `num_tokens` for a step, unless the user has set them."""
        if self.step_tokens is not None:
            return self
        return replace(self, step_tokens=max(num_tokens, 2 * self.max_batch))

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError("--max-batch must be at least 1")
        if self.step_tokens is not None and self.step_tokens <= self.max_batch:
            raise ValueError("--step-tokens must be greater than --max-batch")
        if not 1 <= self.itl_target_ms <= 60_000:
            raise ValueError("--itl-target-ms must lie between 1 and 60000")
        if not 1 <= self.max_wait_s <= 86_400:
            raise ValueError("--max-wait-s must lie between 1 and 86400")
        if self.max_waiting < 1:
            raise ValueError("--max-waiting must be at least 1")
