"""The two engines that `gpu.py` compares, each with a context of random KV."""

import gc
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import KVCache, make_prompt_cache

from ...cache.blocks import BLOCK_SIZE
from ...cache.kv import ArrayPools
from ...cache.packing import UNQUANTISED
from ...engine.attention.kernels.layer_pools import LayerPools
from ...engine.attention.kernels.paged_kernels import PagedKernels, find_kernels
from ...engine.attention.kernels.tables import LayerKind
from ...engine.attention.paged_model import probe
from ...engine.decode_graphs import DecodeGraphs
from ...engine.fused_model import unfuse
from ...engine.paged_caches import Capacity
from ...engine.step import PrefillChunk, SamplingParams
from ...scheduler.config import SchedulerConfig
from ...scheduler.scheduler import Scheduler
from ...scheduler.sequence import Request
from .bare_engine import BareEngine, TimedRunner, in_served_form

ROOM = 320
"""Tokens that each sequence may grow by while it is measured."""

NUM_STATE_SLOTS = 120
"""Slots for recurrent states: those of 32 sequences while they are measured, and some checkpoints."""

HEADER = 4
"""Tokens that a template puts before a reply."""

VOCABULARY = 32_000
"""Tokens of which random prompts are drawn: every shape has as many."""


@dataclass(frozen=True)
class DecodeCase:
    """A batch that decodes: context lengths, and the number of tokens that all contexts share."""

    name: str
    lengths: list[int]
    shared: int = 0


@dataclass
class DecodeFigures:
    """One engine's milliseconds and bytes; None for a time that was not measured."""

    step_ms: float
    peak_bytes: int
    join_ms: float | None = None  # beyond an ordinary step
    leave_ms: float | None = None
    notes: dict[str, float] = field(default_factory=dict)


class NoAttention(PagedKernels):
    """Returns the queries as the attention's output, to time the rest of a step."""

    def decode(self, queries: mx.array, new: Any, pools: LayerPools, batch: Any, params: Any) -> Any:
        """Store nothing and return the queries, cut to the size of the values."""
        batch.get(LayerKind(1, 1, 0))
        return queries[..., : new[1].shape[-1]], pools.write_fence


class FilledRunner(TimedRunner):
    """A runner with random KV in all slots. It skips prefill while `prefills` is false."""

    prefills = False

    def fill(self) -> None:
        """Fill every slot with random keys and values."""
        assert isinstance(self.caches.pools, ArrayPools)
        for rows in self.caches.pools.arrays():
            rows[:] = mx.random.normal(rows.shape, mx.bfloat16)
            mx.eval(rows)

    def prefill(self, chunk: PrefillChunk) -> None:
        """Prefill as Runner does, unless `prefills` is false."""
        if self.prefills:
            super().prefill(chunk)

    def skip_attention(self) -> None:
        """Leave attention out of all later steps."""
        self._graphs = DecodeGraphs(self._paged, NoAttention("metal" if mx.metal.is_available() else "cuda"))


class Pensieve(BareEngine):
    """Pensieve's scheduler and runner over random KV."""

    name = "Pensieve"
    runner: FilledRunner

    def __init__(self, model: Any, num_tokens: int, step_tokens: int) -> None:
        num_blocks = -(-num_tokens // BLOCK_SIZE) + 8
        paged = in_served_form(probe(model, UNQUANTISED), on_host=False)
        self.kv_bytes_per_token, self.state_bytes = paged.kv_bytes_per_token, paged.state_bytes
        self.num_state_slots = NUM_STATE_SLOTS if paged.states else 0
        capacity = Capacity(num_blocks, self.num_state_slots)
        runner = FilledRunner(paged, capacity, on_host=False, kernels=find_kernels())
        runner.fill()
        config = SchedulerConfig(max_batch=64, step_tokens=step_tokens)
        super().__init__(runner, Scheduler(config, num_blocks, 1_000_000, self.num_state_slots))

    def add(self, length: int, shared: int, index: int) -> Any:
        """Queue a sequence of `length` tokens; all sequences have the same first `shared` tokens."""
        prompt = [7] * shared + [index + 100] * (length - shared)
        return self.scheduler.add(Request(prompt, SamplingParams(), ROOM))

    def first_token_s(self, prompt: list[int], header: int = 0) -> tuple[float, int]:
        """Return the seconds from a request alone to its first token, and how many tokens were found.

        header: tokens at the prompt's end before which a recurrent model keeps its state, as at a reply's.
        """
        checkpoints = (len(prompt) - header,) if header and self.num_state_slots else ()
        started = time.perf_counter()
        sequence = self.scheduler.add(Request(prompt, SamplingParams(), ROOM, checkpoints=checkpoints))
        while len(sequence.tokens) == sequence.num_prompt_tokens:
            self.step()
        seconds = time.perf_counter() - started
        self.scheduler.end(sequence, "abort")
        self.finish()
        return seconds, sequence.num_cached_tokens or 0

    def measure(self, case: DecodeCase, steps: int) -> DecodeFigures:
        """Decode `case`, let one sequence leave and one join, then time the parts of a step."""
        sequences = [self.add(length, case.shared, i) for i, length in enumerate(case.lengths)]
        while any(s.num_prefill_tokens or not s.block_table.blocks for s in sequences):
            self.step()
        mx.reset_peak_memory()
        step_ms = self.timed(steps)
        peak, notes = mx.get_peak_memory(), self.shares(step_ms, steps)
        newest = sequences[-1]
        for _ in range(2):  # the first time compiles what later ones use
            self.scheduler.end(newest, "abort")
            leave_ms = slowest(self.step, 3) - step_ms
            newest = self.add(case.lengths[-1], case.shared, len(case.lengths) - 1)  # its prompt is cached
            join_ms = slowest(self.step, 4) - step_ms
        notes["serial"] = self.timed(8, drains=True)
        self.runner.skip_attention()
        notes["rest"] = self.timed(8)
        return DecodeFigures(step_ms, peak, join_ms, leave_ms, notes)

    def shares(self, step_ms: float, steps: int) -> dict[str, float]:
        """Return the milliseconds of each part of the host's time in a step."""
        spent = {"plan": self.plan_s, "build": self.runner.build_s, "wait": self.runner.wait_s}
        shares = {name: 1e3 * seconds / steps for name, seconds in spent.items()}
        return shares | {"queue": step_ms - sum(shares.values())}

    def timed(self, steps: int, drains: bool = False) -> float:
        """Return the milliseconds of a step, after a warm-up. drains: wait for each step before the next."""
        warm_up(self.step)
        self.runner.build_s = self.runner.wait_s = self.plan_s = 0.0
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
            if drains:
                self.take(self.runner.drain())
        return 1e3 * (time.perf_counter() - started) / steps


class MlxLm:
    """mlx-lm's own continuous batching."""

    name = "mlx-lm"

    def __init__(self, model: Any) -> None:
        """Give the model its own layers back."""
        unfuse(model)
        self.model = model

    def filled_cache(self, length: int) -> list[Any]:
        """Return mlx-lm's caches with `length` tokens of random KV, and states after one token."""
        caches = make_prompt_cache(self.model)
        mx.eval(self.model(mx.array([[5]]), cache=caches))
        for cache in caches:
            if isinstance(cache, KVCache):
                assert cache.keys is not None
                for name in ("keys", "values"):
                    _, heads, _, dim = getattr(cache, name).shape
                    setattr(cache, name, mx.random.normal((1, heads, length, dim), mx.bfloat16))
                cache.offset = length
            mx.eval(cache.state)
        return caches

    def measure(self, case: DecodeCase, steps: int) -> DecodeFigures:
        """Decode `case`, then let one sequence leave and one join."""
        generator = BatchGenerator(
            self.model, max_tokens=10_000, completion_batch_size=64, prefill_batch_size=64
        )
        caches = [self.filled_cache(length - 1) for length in case.lengths]
        uids = generator.insert([[5]] * len(caches), caches=caches)
        extra = self.filled_cache(case.lengths[-1] - 1) if len(uids) > 1 else None
        del caches
        step: Callable[[], Any] = generator.next
        warm_up(step)
        mx.reset_peak_memory()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        step_ms = 1e3 * (time.perf_counter() - started) / steps
        result = DecodeFigures(step_ms, mx.get_peak_memory())
        if extra is not None:
            started = time.perf_counter()
            generator.remove([uids[-1]])
            removed_ms = 1e3 * (time.perf_counter() - started)
            result.leave_ms = removed_ms + slowest(step, 3) - step_ms
            generator.insert([[5]], caches=[extra])
            result.join_ms = slowest(step, 3) - step_ms
        generator.close()
        return result


def warm_up(step: Callable[[], object]) -> None:
    """Make the first steps, which compile."""
    for _ in range(4):
        step()


def slowest(step: Callable[[], object], count: int) -> float:
    """Return the milliseconds of the slowest of `count` steps."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return 1e3 * max(times)


@contextmanager
def clean_memory() -> Iterator[None]:
    """Free the memory that the block used and MLX keeps."""
    try:
        yield
    finally:
        gc.collect()
        mx.clear_cache()


def prefill_rates(model: Any, length: int = 16_384, chunk: int = 2048) -> dict[str, list[float]]:
    """Return the tokens/s of the first and of the second prompt in Pensieve and in mlx-lm, each alone.

    The prompts are random. The second one's slices have the shapes of the first one's.
    """
    rng, rates = random.Random(), dict[str, list[float]]()
    with clean_memory():
        machine = Pensieve(model, length + 2 * chunk, chunk)
        machine.runner.prefills = True
        rates[machine.name] = []
        for _ in range(2):
            machine.scheduler.reset_prefix_cache()
            prompt = rng.choices(range(VOCABULARY), k=length)
            rates[machine.name].append(length / machine.first_token_s(prompt)[0])
        del machine
    with clean_memory():
        rates[MlxLm.name] = []
        for _ in range(2):
            generator = BatchGenerator(model, max_tokens=4, prefill_step_size=chunk)
            generator.insert([rng.choices(range(VOCABULARY), k=length)])
            started = time.perf_counter()
            generator.next_generated()
            rates[MlxLm.name].append(length / (time.perf_counter() - started))
            generator.close()
    return rates


def turn_times(model: Any, length: int = 20_000, new: int = 200) -> list[tuple[float, float, int]]:
    """Return Pensieve's seconds to the first token of a cold prompt, and of the same with `new` tokens more.

    With them the number of tokens that the second one found. Three pairs, each of a new random prompt.
    """
    rng, pairs = random.Random(), []
    with clean_memory():
        machine = Pensieve(model, 2 * length + 8192, 2048)
        machine.runner.prefills = True
        for _ in range(3):
            machine.scheduler.reset_prefix_cache()
            prompt = rng.choices(range(VOCABULARY), k=length)
            cold_s, _ = machine.first_token_s(prompt, HEADER)
            warm_s, found = machine.first_token_s(prompt + rng.choices(range(VOCABULARY), k=new), HEADER)
            pairs.append((cold_s, warm_s, found))
        del machine
    return pairs
