"""What is served: a model's facts, its memory plan, and what computes its attention."""

from dataclasses import dataclass

from .loading.memory_plan import MemoryPlan
from .loading.model_info import ModelInfo
from .step import SamplingParams

DEVICE_NAMES = {"metal": "Apple GPU", "cuda": "NVIDIA GPU", "cpu": "CPU"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model and its memory plan, as scheduler and API need to know them."""

    info: ModelInfo
    memory: MemoryPlan
    blas: str  # what MLX's CPU device multiplies with
    attention: str = "not yet chosen"  # what computes it; known when the engine has checked itself

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def model_type(self) -> str:
        return self.info.model_type

    @property
    def vocab_size(self) -> int:
        return self.info.vocab_size

    @property
    def max_context(self) -> int:
        """Prompt and answer together, in tokens."""
        return self.memory.max_context

    @property
    def kv_bytes_per_token(self) -> int:
        return self.memory.kv_bytes_per_token

    @property
    def kv_type(self) -> str:
        return self.info.kv_type

    @property
    def num_kv_tokens(self) -> int:
        return self.memory.num_kv_tokens

    @property
    def device(self) -> str:
        return f"{DEVICE_NAMES[self.memory.device.kind]} ({self.memory.device.name})"

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self.info.eos_token_ids

    @property
    def default_sampling(self) -> SamplingParams:
        return self.info.default_sampling
