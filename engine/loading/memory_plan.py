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

# State slots that a running sequence may need at once, as the scheduler promises them.
STATES_A_SEQUENCE = 3

# States that a decode pass holds of each row beside the slots: what it has read, and what it is to write.
WORKING_STATES = 2

# A conversation of 60,000 tokens keeps at most 8 checkpoints of its recurrent state (`cache/checkpoints.py`),
# and while it runs five states more. States get the share of memory that leaves as much KV as TOKENS_A_STATE
# tokens take beside each of them, and MIN_STATE_SHARE where they are small; never more than one for
# MIN_TOKENS_A_STATE tokens, beside those of running sequences: they would not be used.
TOKENS_A_STATE = 4096
MIN_TOKENS_A_STATE = 512
MIN_STATE_SHARE = 0.02

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
    plan = _plan_windows(info, config, device, budget, max_batch)
    if plan is not None:
        return plan
    limit = _context_limit(info, config)
    wanted = _wanted_tokens(limit, config)
    block_bytes = BLOCK_SIZE * info.kv_bytes_per_token
    useful_blocks = _useful_blocks(limit, device)
    kv_wanted = -(-wanted // BLOCK_SIZE) * block_bytes
    if budget < kv_wanted + _least_states_bytes(info):
        missing = _least_kv_bytes(info, wanted) + _least_states_bytes(info) - budget
        raise ModelError(_shortage(info, config, device, wanted, missing))
    slots = _state_slots(info, budget, budget - kv_wanted, max_batch, useful_blocks * BLOCK_SIZE)
    states_bytes = (slots + WORKING_STATES * min(max_batch, slots // STATES_A_SEQUENCE)) * info.state_bytes
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
    """Return the plan in which layers with a window keep no more than it; None where that gains nothing.

    Recurrent models, of which few have windows, keep all tokens in all layers that attend.
    """
    limit = _context_limit(info, config)
    useful_blocks = _useful_blocks(limit, device)
    whole_blocks = budget // (BLOCK_SIZE * info.kv_bytes_per_token) if info.kv_bytes_per_token else 0
    if info.window is None or info.state_bytes or whole_blocks >= useful_blocks:
        return None
    wanted = _wanted_tokens(limit, config)
    demand = Demand(wanted, max_batch, MAX_STEP_TOKENS[device.kind], useful_blocks)
    division = divide_windows(info, budget, demand)
    if division is None:
        return None
    if whole_blocks * BLOCK_SIZE >= wanted and division.num_blocks < MIN_GAIN * whole_blocks:
        return None
    kept_bytes = info.kv_bytes_per_token - info.window_bytes_per_token
    num_blocks, window = division
    window_bytes = window.num_blocks * BLOCK_SIZE * info.window_bytes_per_token
    kv_bytes = num_blocks * BLOCK_SIZE * kept_bytes + window_bytes
    return MemoryPlan(
        device=device,
        kv_bytes_per_token=kept_bytes,
        kv_bytes=kv_bytes,
        num_blocks=num_blocks,
        state_bytes=0,
        num_state_slots=0,
        max_context=min(limit, num_blocks * BLOCK_SIZE),
        step_tokens=min(window.slice_tokens, _step_tokens(info, device, kv_bytes)),
        window=window,
        window_bytes=window_bytes,
    )


def _wanted_tokens(limit: int, config: EngineConfig) -> int:
    """Return the tokens that a context must have at least."""
    return limit if config.max_context is not None else min(limit, MIN_CONTEXT)


def _useful_blocks(limit: int, device: Device) -> int:
    """Return the blocks of KV beyond which more are of no use."""
    return MAX_CONTEXTS[device.kind] * (limit // BLOCK_SIZE + 1)


def _least_kv_bytes(info: ModelInfo, tokens: int) -> int:
    """Return the bytes that `tokens` of KV take at least."""
    whole = -(-tokens // BLOCK_SIZE) * BLOCK_SIZE * info.kv_bytes_per_token
    return whole if info.window is None or info.state_bytes else min(whole, least_bytes(info, tokens))


def _least_states_bytes(info: ModelInfo) -> int:
    """Return the bytes of the recurrent states without which nothing runs."""
    return (STATES_A_SEQUENCE + WORKING_STATES) * info.state_bytes


def _state_slots(info: ModelInfo, budget: int, room: int, max_batch: int, useful_tokens: int) -> int:
    """Return how many recurrent states are kept.

    budget: bytes for KV and states. room: bytes of it that states may take at most.
    useful_tokens: tokens of KV beyond which more are of no use.
    """
    if not info.state_bytes:
        return 0
    kv_beside = TOKENS_A_STATE * info.kv_bytes_per_token
    share = max(MIN_STATE_SHARE, info.state_bytes / (info.state_bytes + kv_beside))
    tokens = min(useful_tokens, budget // info.kv_bytes_per_token if kv_beside else useful_tokens)
    useful = STATES_A_SEQUENCE * max_batch + tokens // MIN_TOKENS_A_STATE
    fitting = min(int(budget * share), room) // info.state_bytes
    running = min(max_batch, fitting // (STATES_A_SEQUENCE + WORKING_STATES))
    slots = fitting - WORKING_STATES * running
    if running < max_batch:  # a slot more would let another sequence run
        slots = min(slots, STATES_A_SEQUENCE * (running + 1) - 1)
    return max(STATES_A_SEQUENCE, min(useful, slots))


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


def _shortage(info: ModelInfo, config: EngineConfig, device: Device, wanted: int, missing: int) -> str:
    kv_bytes = _least_kv_bytes(info, wanted)
    share = 1.0 if config.kv_cache_gb is not None else KV_SHARE[device.kind]
    # Where not even the weights fit, `_budget` has cut the budget off at zero.
    below_zero = max(0, info.weight_bytes + RESERVE_BYTES - device.available_bytes)
    helps = ["a smaller --max-context"] if config.max_context is not None else []
    helps += ["a larger --kv-cache-gb"] if config.kv_cache_gb is not None else []
    # 8 bits take 9/16 of half precision, scales included.
    helps += ["--kv-bits 8"] if info.kv_bits == UNQUANTISED and missing < kv_bytes * 7 / 16 else []
    helps += ["a smaller model"] if info.quantization else ["a 4-bit model"]
    states = f"{gigabytes(_least_states_bytes(info))} go to recurrent states, "
    needs = f"{wanted} tokens of KV take {gigabytes(kv_bytes)}, {states if info.state_bytes else ''}"
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
