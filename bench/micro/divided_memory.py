"""What a recurrent model computes again as memory is divided between KV and states in one way or another.

    python -m pensieve.bench.micro.divided_memory
    python -m pensieve.bench.micro.divided_memory --model Qwen3.6-35B-A3B --gb 40 --sessions 6 12

The server's memory plan divides memory once, at its start. Here the real scheduler serves the sessions of
`forgotten_windows` with that division, and with a quarter, half, twice and four times as many states in the
same bytes. Printed is how many prompt tokens are computed for each that is new, 1 being the least: what lies
between the plan's column and the best one is what a division that follows use could save at most. No model
runs, and no time is measured.
"""

from collections.abc import Iterator
from dataclasses import replace

from ...cache.blocks import BLOCK_SIZE
from ...engine.config import EngineConfig
from ...engine.loading.device import Device
from ...engine.loading.memory_plan import MemoryPlan, make_plan
from ...engine.loading.model_info import ModelInfo
from ...engine.loading.state_plan import STATES_A_SEQUENCE
from ...scheduler.config import SchedulerConfig
from ..report import table
from .forgotten_windows import Fleet, model, parse_options

FACTORS = (0.25, 0.5, 1, 2, 4)
"""Numbers of states, as multiples of the plan's."""


def recurrent(name: str, weight_bytes: float, kv_bytes: int, state_bytes: float) -> ModelInfo:
    """Return the facts of a 4-bit model; KV bytes are those of a token."""
    info = model(name, int(weight_bytes), kv_bytes, 0, 0)
    return replace(info, window=None, state_bytes=int(state_bytes))


# As `scripts/docs.py` finds them with mlx-lm's own models.
MODELS = [
    recurrent("Qwen3.5-4B", 2.4e9, 32_768, 51e6),
    recurrent("Qwen3.6-35B-A3B", 19.5e9, 20_480, 64.4e6),
    recurrent("Nemotron-3-Nano", 17.8e9, 6_144, 49.1e6),
]


def divisions(plan: MemoryPlan) -> Iterator[MemoryPlan | None]:
    """Yield the plan with other numbers of states in the same bytes; None where that leaves nothing."""
    num_bytes = plan.kv_bytes + plan.states_bytes
    for factor in FACTORS:
        num_slots = int(factor * plan.num_state_slots)
        num_blocks = (num_bytes - num_slots * plan.state_bytes) // (BLOCK_SIZE * plan.kv_bytes_per_token)
        is_possible = num_slots >= STATES_A_SEQUENCE and num_blocks * BLOCK_SIZE >= plan.max_context // 2
        context = min(plan.max_context, num_blocks * BLOCK_SIZE)
        divided = replace(plan, num_state_slots=num_slots, num_blocks=num_blocks, max_context=context)
        yield divided if is_possible else None


def main() -> None:
    """Print a line for each model and number of sessions."""
    options = parse_options(__doc__, MODELS)
    device, lines = Device("metal", "a Mac", int(options.gb * 1e9)), []
    for info in [info for info in MODELS if options.model in (None, info.name)]:
        plan = make_plan(info, EngineConfig(), device, SchedulerConfig().max_batch)
        for num_sessions in options.sessions:
            shares = [
                "" if each is None else f"{Fleet(each, num_sessions).play(options.turns):.2f}"
                for each in divisions(plan)
            ]
            sizes = [str(num_sessions), f"{plan.num_kv_tokens:,}", str(plan.num_state_slots)]
            lines.append([info.name, *sizes, *shares])
    names = ["model", "sessions", "tokens that fit", "states", *(f"x {factor:g}" for factor in FACTORS)]
    print(table(names, lines))


if __name__ == "__main__":
    main()
