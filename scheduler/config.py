"""Settings of the scheduler; `pensieve serve` makes a flag of each field."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How much one step may do, and how much may wait."""

    max_batch: int = field(default=32, metadata={"help": "sequences decoded together"})
    step_tokens: int = field(
        default=512,
        metadata={"help": "tokens one step may compute; a long prompt is prefilled in such slices"},
    )
    max_waiting: int = field(
        default=1024, metadata={"help": "requests that may wait; beyond it, 529 with a retry-after"}
    )

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError("--max-batch must be at least 1")
        if self.step_tokens <= self.max_batch:
            raise ValueError("--step-tokens must be greater than --max-batch")
        if self.max_waiting < 1:
            raise ValueError("--max-waiting must be at least 1")
