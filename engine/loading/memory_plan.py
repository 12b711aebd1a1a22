"""How much memory the KV and the recurrent states of all sequences may take, and how long a context can be.

The plan is a pure function of the model's facts, the settings and the device's facts, so that one machine can
test the plans of all.
"""

from dataclasses import dataclass

from ...cache.blocks import BLOCK_SIZE
from ...cache.packing import UNQUANTISED
from ..config import EngineConfig
from ..served_model import WindowPool
from .device import Device, DeviceKind
from .model_error import ModelError
from .model_info import ModelInfo
from .state_plan import (
    STATES_A_SEQUENCE,
    WORKING_STATES,
    LeastBytes,
    StateDemand,
    choose_state_slots,
    running_states,
)
from .window_plan import Demand, divide_windows, least_bytes

# Activations, logits, MLX's buffer cache and the Python process itself.
RESERVE_BYTES = 750_000_000

# The share of KV and states in the memory that weights and reserve leave. The rest is for prefill, which
# copies one layer's K and V at a time, and for the machine's other work: on the CPU all share the memory.
KV_SHARE: dict[DeviceKind, float] = {"metal": 0.9, "cuda": 0.9, "cpu": 0.8}

# More full contexts are not worth their memory: a CPU could not read them in useful time, and a small model
# on a large machine would take all of its memory.
MAX_CONTEXTS: dict[DeviceKind, int] = {"metal": 32, "cuda": 32, "cpu": 8}

# Most tokens of one step: longer slices are no faster. At least MIN_STEP_TOKENS are computed, however little
# memory is left.
MAX_STEP_TOKENS: dict[DeviceKind, int] = {"metal": 8192, "cuda": 8192, "cpu": 2048}
MIN_STEP_TOKENS = 512

# Tokens: a shorter context is of no use.
MIN_CONTEXT = 1024

# Layers with a window keep no more than it where that lets so many times as many tokens fit, and where not
# all tokens that are of use fit anyway: a prompt can then branch off only where a checkpoint is.
MIN_GAIN = 1.25


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the device's memory is divided."""

    device: Device
    kv_bytes_per_token: int  # of layers that keep all tokens: without those of `window`
    kv_bytes: int  # the pools of all layers together
    num_blocks: int  # of KV, in layers that keep all tokens
    state_bytes: int  # of one recurrent state, over all layers
    num_state_slots: int  # states that are kept at once; 0 for models without recurrent layers
    max_context: int  # longest prompt plus answer, tokens
    step_tokens: int  # that one step may compute, for its activations to fit
    window: WindowPool | None = None  # of layers that keep their window only; None where all keep all tokens
    window_bytes: int = 0  # of that pool, which are among `kv_bytes`

    @property
    def num_kv_tokens(self) -> int:
        """Tokens whose KV fits into the blocks."""
        return self.num_blocks * BLOCK_SIZE

    @property
    def states_bytes(self) -> int:
        """Bytes of all recurrent states."""
        return self.num_state_slots * self.state_bytes

    def num_running(self, max_batch: int) -> int:
        """Return how many sequences may run at once, of at most `max_batch`."""
        if self.window is not None:
            return min(max_batch, self.window.max_running)
        return min(max_batch, self.num_state_slots // STATES_A_SEQUENCE) if self.state_bytes else max_batch


def make_plan(info: ModelInfo, config: EngineConfig, device: Device, max_batch: int) -> MemoryPlan:
    """Divide the device's memory between weights, KV and recurrent states.

    max_batch: sequences that are to run at once, if memory allows.
    Raises ModelError that says how much is missing and what would help.
    """
    budget = _budget(info, config, device)
    whole = _plan_whole(info, config, device, budget, max_batch)
    windows = None if info.window is None else _plan_windows(info, config, device, budget, max_batch)
    if whole is None or windows is None:
        possible = whole or windows
        if possible is None:
            raise ModelError(_shortage(info, config, device, budget))
        return possible
    has_all = whole.num_blocks >= _useful_blocks(_context_limit(info, config), device)
    return whole if has_all or windows.num_blocks < MIN_GAIN * whole.num_blocks else windows


def _plan_whole(
    info: ModelInfo, config: EngineConfig, device: Device, budget: int, max_batch: int
) -> MemoryPlan | None:
    """Return the plan in which all layers that attend keep all tokens; None where memory is too short."""
    limit = _context_limit(info, config)
    block_bytes = BLOCK_SIZE * info.kv_bytes_per_token
    useful_blocks = _useful_blocks(limit, device)
    kv_wanted = -(-_wanted_tokens(limit, config) // BLOCK_SIZE) * block_bytes
    if budget < kv_wanted + running_states(info, device.kind):
        return None
    demand = StateDemand(device.kind, max_batch, useful_blocks * BLOCK_SIZE)
    slots = choose_state_slots(info, budget, budget - kv_wanted, demand)
    working = WORKING_STATES[device.kind] * min(max_batch, slots // STATES_A_SEQUENCE)
    states_bytes = (slots + working) * info.state_bytes
    num_blocks = (budget - states_bytes) // block_bytes if block_bytes else useful_blocks
    if config.kv_cache_gb is None:
        num_blocks = min(num_blocks, useful_blocks)
    used_bytes = num_blocks * block_bytes + states_bytes
    return MemoryPlan(
        device=device,
        kv_bytes_per_token=info.kv_bytes_per_token,
        kv_bytes=num_blocks * block_bytes,
        num_blocks=num_blocks,
        state_bytes=info.state_bytes,
        num_state_slots=slots,
        max_context=min(limit, num_blocks * BLOCK_SIZE),
        step_tokens=_step_tokens(info, device, used_bytes),
    )


def _plan_windows(
    info: ModelInfo, config: EngineConfig, device: Device, budget: int, max_batch: int
) -> MemoryPlan | None:
    """Return the plan in which layers with a window keep no more than it; None where memory is too short."""
    limit = _context_limit(info, config)
    demand = Demand(
        _wanted_tokens(limit, config),
        max_batch,
        MAX_STEP_TOKENS[device.kind],
        _useful_blocks(limit, device),
        running_states(info, device.kind),
    )
    division = divide_windows(info, budget, demand)
    if division is None:
        return None
    kept_bytes = info.kv_bytes_per_token - info.window_bytes_per_token
    num_blocks, window, slots = division
    window_bytes = window.num_blocks * BLOCK_SIZE * info.window_bytes_per_token
    kv_bytes = num_blocks * BLOCK_SIZE * kept_bytes + window_bytes
    used_bytes = kv_bytes + (slots + WORKING_STATES[device.kind] * window.max_running) * info.state_bytes
    return MemoryPlan(
        device=device,
        kv_bytes_per_token=kept_bytes,
        kv_bytes=kv_bytes,
        num_blocks=num_blocks,
        state_bytes=info.state_bytes,
        num_state_slots=slots,
        max_context=min(limit, num_blocks * BLOCK_SIZE),
        step_tokens=min(window.slice_tokens, _step_tokens(info, device, used_bytes)),
        window=window,
        window_bytes=window_bytes,
    )


def _wanted_tokens(limit: int, config: EngineConfig) -> int:
    """Return the tokens that a context must have at least."""
    return limit if config.max_context is not None else min(limit, MIN_CONTEXT)


def _useful_blocks(limit: int, device: Device) -> int:
    """Return the blocks of KV beyond which more are of no use."""
    return MAX_CONTEXTS[device.kind] * (limit // BLOCK_SIZE + 1)


def _least_bytes(info: ModelInfo, device: Device, tokens: int) -> LeastBytes:
    """Return the bytes of KV and of states with which a context of `tokens` fits."""
    kv_bytes = -(-tokens // BLOCK_SIZE) * BLOCK_SIZE * info.kv_bytes_per_token
    running = running_states(info, device.kind)
    whole = LeastBytes(kv_bytes, running)
    return whole if info.window is None else min(whole, least_bytes(info, tokens, running), key=sum)


def _context_limit(info: ModelInfo, config: EngineConfig) -> int:
    if config.max_context is None:
        return info.context_length
    if config.max_context > info.context_length:
        raise ModelError(
            f"--max-context {config.max_context} is more than the model's {info.context_length} tokens"
        )
    return config.max_context


def _budget(info: ModelInfo, config: EngineConfig, device: Device) -> int:
    """Return the bytes for KV and states: the user's setting, or what can be spared. Raises ModelError."""
    spare = device.available_bytes - info.weight_bytes - RESERVE_BYTES
    if config.kv_cache_gb is not None:
        asked = int(config.kv_cache_gb * 1e9)
        if asked > spare:
            raise ModelError(
                f"not enough memory: --kv-cache-gb {config.kv_cache_gb:g} is {gigabytes(asked - spare)} more "
                f"than {device.name} can spare beside the weights"
            )
        return asked
    return max(0, int(spare * KV_SHARE[device.kind]))


def _step_tokens(info: ModelInfo, device: Device, used_bytes: int) -> int:
    """Return how many tokens' activations fit into a quarter of the reserve, or half of the spare bytes.

    used_bytes: bytes of KV and states.
    """
    spare_bytes = device.available_bytes - info.weight_bytes - RESERVE_BYTES - used_bytes
    num_bytes = max(RESERVE_BYTES // 4, spare_bytes // 2)
    fitting = num_bytes // info.activation_bytes_per_token // MIN_STEP_TOKENS * MIN_STEP_TOKENS
    return min(MAX_STEP_TOKENS[device.kind], max(MIN_STEP_TOKENS, fitting))


def _shortage(info: ModelInfo, config: EngineConfig, device: Device, budget: int) -> str:
    wanted = _wanted_tokens(_context_limit(info, config), config)
    kv_bytes, states_bytes = _least_bytes(info, device, wanted)
    missing = kv_bytes + states_bytes - budget
    share = 1.0 if config.kv_cache_gb is not None else KV_SHARE[device.kind]
    # Where not even the weights fit, `_budget` has cut the budget off at zero.
    below_zero = max(0, info.weight_bytes + RESERVE_BYTES - device.available_bytes)
    helps = ["a smaller --max-context"] if config.max_context is not None else []
    helps += ["a larger --kv-cache-gb"] if config.kv_cache_gb is not None else []
    # 8 bits take 9/16 of half precision, scales included.
    helps += ["--kv-bits 8"] if info.kv_bits == UNQUANTISED and missing < kv_bytes * 7 / 16 else []
    helps += ["a smaller model"] if info.quantization else ["a 4-bit model"]
    states = f"{gigabytes(states_bytes)} go to recurrent states, " if states_bytes else ""
    needs = f"{wanted} tokens of KV take {gigabytes(kv_bytes)}, {states}"
    return (
        f"not enough memory: {gigabytes(int(missing / share) + below_zero)} missing. {info.name} takes "
        f"{gigabytes(info.weight_bytes)}, {needs}and {device.name} has "
        f"{gigabytes(device.available_bytes)} available; try {' or '.join(helps)}"
    )


def gigabytes(num_bytes: int) -> str:
    """Return bytes for people to read, in GB of 10^9 bytes, MB of 10^6 or kB of 10^3."""
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
