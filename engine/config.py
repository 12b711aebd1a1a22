"""Settings of the engine; `pensieve serve` makes a flag of each field."""

from dataclasses import dataclass, field

from ..cache.packing import UNQUANTISED


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Which model to serve and how much memory its KV may take."""

    model: str = field(
        default="mlx-community/Phi-3-mini-128k-instruct-4bit",
        metadata={"help": "hub id, local folder, or 'demo' for the bundled toy model"},
    )
    max_context: int | None = field(
        default=None,
        metadata={"help": "longest prompt plus answer, in tokens (default: the model's, as far as KV fits)"},
    )
    kv_cache_gb: float | None = field(
        default=None,
        metadata={
            "help": "memory for KV and recurrent states, in GB of 10^9 bytes (default: what the device can "
            "spare)"
        },
    )

    kv_bits: int = field(
        default=UNQUANTISED,
        metadata={
            "help": "16 keeps KV in the model's own type; 8 or 4 quantises it, so that more tokens fit"
        },
    )

    hosts: str | None = field(
        default=None,
        metadata={
            "help": "hostfile of mlx.launch that names this machine once for each GPU or process over which "
            "the model is spread"
        },
    )

    def __post_init__(self) -> None:
        if not self.model.strip("/ "):
            raise ValueError("--model must name a model")
        if self.max_context is not None and self.max_context < 256:
            raise ValueError("--max-context must be at least 256 tokens")
        if self.kv_cache_gb is not None and not 0 < self.kv_cache_gb < 1e5:
            raise ValueError("--kv-cache-gb must be above 0")
        if self.kv_bits not in (UNQUANTISED, 8, 4):
            raise ValueError("--kv-bits must be 16, 8 or 4")
