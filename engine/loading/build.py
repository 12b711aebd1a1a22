"""From a model's folder to a runner: first the plan, then the load and the checks.

The functions run in the engine's process; the server's process imports them to name them.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import SYSTEM_BLAS
from ..attention.kernels.paged_kernels import PagedKernels
from ..attention.paged_model import PagedModel, probe_fetching
from ..blas import describe_blas
from ..compiling.kept_kernels import keep_compiled_code
from ..config import EngineConfig
from ..find_functions import find_functions
from ..fused_model import fuse, unfuse, without_rotations
from ..mended_functions import mended_functions
from ..mixed_check import choose_mixed_tokens
from ..paged_caches import Capacity
from ..pass_functions import PassFunctions
from ..ranks.rank_runner import RankRunner
from ..ranks.rank_team import RankTeam, find_team
from ..ranks.rendezvous import Group
from ..recurrent.parted_layers import with_parts
from ..rehearsal import compile_kernels
from ..runner import Runner
from ..selfcheck import logits_error, usable_kernels
from ..served_model import ServedModel
from ..transfers.copy_check import comes_back
from ..warm_up import warm_up
from .device import bound_buffer_cache, find_device
from .loader import compute_dtype, load
from .memory_plan import MemoryPlan, make_plan
from .model_error import ModelError, first_line
from .model_info import ModelInfo, read_model_info
from .rank_facts import RankFacts, check_alike, check_weights, hash_samples, share_out

logger = logging.getLogger(__name__)

PER_ROW = "%s attends in a way of its own: answers are computed one at a time, not as a batch"
"""The warning for a model that gets its keys and values itself."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model whose weights are not loaded yet, and its memory plan on this device."""

    info: ModelInfo
    memory: MemoryPlan
    blas: str  # BLAS that MLX's CPU device uses, for people to read
    hosts: str | None = None  # see EngineConfig
    ranks: tuple[RankFacts, ...] = ()  # over which the model is spread; empty for one device


def plan_model(path: Path, config: EngineConfig, max_batch: int) -> PlannedModel:
    """Read the facts of the model in `path`, and plan its memory on this device.

    max_batch: sequences that are to run at once.
    Raises ModelError, also for a model that cannot be served, and RankError where ranks do not fit together.
    """
    keep_compiled_code()
    team, name, device = find_team(config.hosts), config.model.rstrip("/"), find_device()
    if team is None:
        info = read_model_info(path, name, compute_dtype(), config.kv_bits)
        return PlannedModel(info, make_plan(info, config, device, max_batch), describe_blas(SYSTEM_BLAS))
    info, others = _ask_facts(team, path, name, config.kv_bits)
    ranks = (RankFacts.of(info, device), *map(RankFacts.read, others))
    check_alike(ranks)
    largest, smallest = share_out(ranks, info, device)
    memory = make_plan(largest, config, smallest, max_batch)
    return PlannedModel(info, memory, describe_blas(SYSTEM_BLAS), config.hosts, ranks)


def _ask_facts(team: RankTeam, path: Path, name: str, kv_bits: int) -> tuple[ModelInfo, list[dict[str, Any]]]:
    """Have all ranks read the facts of their parts; return this one's, and what the others say of theirs.

    After a refusal the ranks can be asked for another model. Raises ModelError and RankError.
    """
    message = {"do": "facts", **question(path, name, kv_bits)}
    return team.ask(message, lambda: read_model_info(path, name, compute_dtype(), kv_bits, team.group))


def question(path: Path, name: str, kv_bits: int) -> dict[str, Any]:
    """Return what another rank must know to find the model, for JSON. path, name: on rank 0."""
    return {"path": str(path.resolve()), "name": name, "kv_bits": kv_bits}


def build(planned: PlannedModel) -> tuple[Runner, ServedModel]:
    """Load a planned model, check it on this device, and allocate its KV. Raises ModelError and RankError."""
    info, memory = planned.info, planned.memory
    team = find_team(planned.hosts)
    runner = load_runner(info, memory) if team is None else _lead(team, info, memory)
    described = _describe(info, memory, runner.caches.attention_backend)
    if team is not None:  # a file of KV would hold rank 0's part of it
        return runner, replace(described, ranks=tuple(rank.memory(memory) for rank in planned.ranks))
    if not comes_back(runner.caches.pool_bytes):
        logger.warning("%s: KV does not come back as it was saved; none is kept on disk", info.name)
        return runner, described
    return runner, replace(described, pool_layout=runner.caches.pool_bytes.layout)


def _lead(team: RankTeam, info: ModelInfo, memory: MemoryPlan) -> Runner:
    """Have all ranks load their parts of the model, this one as well; then lead them."""
    asked = question(info.path, info.name, info.kv_bits)
    own, answers = team.ask({"do": "sample", **asked}, partial(hash_samples, info.path))
    check_weights([own, *(answer["weights"] for answer in answers)])
    team.begin({"do": "build", **asked, "memory": asdict(memory)})
    runner = load_runner(info, memory, team.group)
    team.answers()
    assert isinstance(runner, RankRunner)
    runner.lead(team)
    return runner


def load_runner(info: ModelInfo, memory: MemoryPlan, group: Group = None) -> Runner:
    """Load a model, check it on this device, and allocate its KV as planned. Raises ModelError.

    group: the ranks over which the model is spread; all of them must do this at the same time.
    """
    keep_compiled_code()
    bound_buffer_cache()
    kind = Runner if group is None else partial(RankRunner.of, group)
    runner = _build_runner(load(info, group), info.name, memory, kind)
    if memory.device.kind != "cpu":
        warm_up(runner, info.vocab_size, _capacity(memory))
    return runner


def _build_runner(paged: PagedModel, name: str, memory: MemoryPlan, kind: Callable[..., Runner]) -> Runner:
    """Check paged attention against mlx-lm's own on this model and device, then allocate the KV pools."""
    on_host = memory.device.kind == "cpu"
    paged = replace(paged, forgets_windows=memory.window is not None)
    if not on_host and not paged.is_fetched:
        paged = fuse(paged)
    if not on_host:
        compile_kernels(paged)
    paged = checked(paged, name, on_host)
    if paged.is_fetched:
        logger.warning(PER_ROW, name)
        return kind(paged, _capacity(memory), on_host)
    paged, kernels = (paged, None) if on_host else find_form(paged)
    return kind(paged, _capacity(memory), on_host, kernels, choose_mixed_tokens(paged, on_host))


def find_form(paged: PagedModel) -> tuple[PagedModel, PagedKernels | None]:
    """Return the model in the first form in which a GPU's kernels work, and the kernels.

    The forms: as it is; without states within slices; with the states of decode batches gathered, not left in
    their slots; with norms and rotations left to the model as well. In the last one, kernels are None if they
    do not work there either.
    """
    forms = [paged]
    if paged.leaves_states:
        paged = replace(paged, leaves_states=False)
        forms.append(paged)
    if paged.functions.num_slot_layers:
        gathered = PassFunctions(paged.functions.replacements)
        forms.append(replace(paged, functions=gathered))
    forms.append(without_rotations(forms[-1]))
    for form in forms:
        kernels = usable_kernels(form)
        if kernels is not None:
            return form, kernels
    return forms[-1], None


def checked(paged: PagedModel, name: str, on_host: bool) -> PagedModel:
    """Return the model as it works: with faster functions in its passes, without them, or row by row.

    Raises ModelError.
    """
    paged = replace(paged, functions=mended_functions(paged.model))
    faster = replace(paged, functions=find_functions(paged.model, on_host))
    for form in [with_parts(faster), faster] if paged.readers else [faster]:
        with suppress(Exception):
            if logits_error(form, on_host) <= 1:
                return form
    try:
        error = logits_error(paged, on_host)
    except Exception as exception:  # all that a model's own Python and MLX raise
        if fetched := _fetched(paged, on_host):
            return fetched
        reason = f"its layers do not work on paged KV ({first_line(exception)})"
        raise ModelError(f"{name} cannot be served: {reason}; not supported yet") from exception
    if not error <= 1:  # not >: NaN must fail
        if fetched := _fetched(paged, on_host):
            return fetched
        reason = "its attention, of a kind of its own, gives other answers on paged KV"
        if paged.is_fetched:
            reason = "it answers otherwise where a prompt is cut into slices"
        raise ModelError(f"{name} cannot be served: {reason}; not supported yet")
    logger.warning("faster recurrences and activations compute wrongly here and are not used for this model")
    return paged


def _fetched(paged: PagedModel, on_host: bool) -> PagedModel | None:
    """Return the model as it gets its KV itself, if that works and takes no more memory than was planned."""
    unfuse(paged.model)
    with suppress(Exception):
        fetched = probe_fetching(paged.model, paged.layers[0].shape.kv_bits)
        fetched = replace(fetched, forgets_windows=paged.forgets_windows, functions=paged.functions)
        is_planned = fetched.kv_bytes_per_token <= paged.kv_bytes_per_token
        if is_planned and logits_error(fetched, on_host) <= 1:
            return fetched
    return None


def _capacity(memory: MemoryPlan) -> Capacity:
    num_window_blocks = None if memory.window is None else memory.window.num_blocks
    return Capacity(memory.num_blocks, memory.num_state_slots, num_window_blocks)


def _describe(info: ModelInfo, memory: MemoryPlan, attention: str) -> ServedModel:
    return ServedModel(
        name=info.name,
        vocab_size=info.vocab_size,
        max_context=memory.max_context,
        eos_token_ids=info.eos_token_ids,
        default_sampling=info.default_sampling,
        kv_type=info.kv_type,
        kv_bytes_per_token=memory.kv_bytes_per_token,
        num_blocks=memory.num_blocks,
        num_kv_tokens=memory.num_kv_tokens,
        step_tokens=memory.step_tokens,
        device=memory.device.description,
        attention=attention,
        num_state_slots=memory.num_state_slots,
        state_bytes=memory.state_bytes,
        window=memory.window,
    )
