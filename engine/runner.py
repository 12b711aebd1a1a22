"""Runs steps on MLX: the decode batch, the prefill chunks, sampling. Lives in the engine's process.

On a device that computes by itself (Metal, CUDA) a step is queued before the result of the step before is
read, so that the device does not wait for Python. On MLX's CPU device, where NumPy attends, a step is
computed when it is called.
"""

import os
import time
from collections import abc

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..cache.kv import ArrayPools, HostPools, Slots
from .attention.host_attention import HostAttention
from .attention.kernels.paged_kernels import PagedKernels
from .attention.paged import (
    ArrayLayer,
    AttentionSpec,
    ForwardContext,
    HostLayer,
    KernelPrefill,
    PagedLayer,
    kernel_slots,
    probe,
)
from .decode_graphs import DecodeGraphs
from .logprobs import BatchLogprobs, compute_logprobs
from .sampler import sample
from .step import DecodeRow, PrefillChunk, SlotRange, StepFailed, StepPlan, StepResult


class Runner:
    """A model and its KV pools."""

    def __init__(
        self,
        model: nn.Module,
        num_blocks: int,
        on_host: bool,
        kernels: PagedKernels | None = None,
        layers: list[AttentionSpec] | None = None,
    ) -> None:
        """Allocate the pools.

        num_blocks: blocks of KV in each layer's pools.
        on_host: keep KV in NumPy and attend there, which only MLX's CPU device can share without copying.
        kernels: attend with these; None for plain MLX.
        layers: what each layer asks of its cache; None for what the model says.
        Raises ValueError when `model` does not attend through mlx-lm's ordinary cache.
        """
        self._model = model
        self._num_blocks = num_blocks
        self._host = HostAttention(num_threads=os.cpu_count() or 1) if on_host else None
        self._kernels = None if on_host else kernels
        self._specs = layers or probe(model)
        self._graphs = None if self._kernels is None else DecodeGraphs(model, self._specs, self._kernels)
        self._in_flight: tuple[StepPlan, mx.array, float] | None = None
        self._logprobs: dict[int, BatchLogprobs] = {}  # by step_id, of steps in flight that have some
        self._last_read_s = 0.0
        self._pools = self._new_pools()

    @property
    def backend(self) -> str:
        """Which attention is in use, for people to read."""
        if self._kernels is not None:
            return self._kernels.name
        return "plain MLX" if self._host is None else "NumPy"

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token's KV takes in all layers."""
        return sum(spec.shape.bytes_per_token for spec in self._specs)

    def _new_pools(self) -> ArrayPools | HostPools:
        shapes = [spec.shape for spec in self._specs]
        return (ArrayPools if self._host is None else HostPools)(shapes, self._num_blocks)

    def _layers(self, context: ForwardContext) -> list[PagedLayer]:
        """The model's cache argument in one forward pass."""
        pools = self._pools
        if isinstance(pools, ArrayPools) and self._kernels is not None:
            slots = kernel_slots(context)
            return [KernelPrefill(spec, context, slots, pools, self._kernels) for spec in self._specs]
        if isinstance(pools, ArrayPools):
            return [ArrayLayer(spec, context, pools) for spec in self._specs]
        assert self._host is not None
        return [HostLayer(spec, context, pools, self._host) for spec in self._specs]

    def step(self, plan: StepPlan) -> StepResult | None:
        """Compute `plan` and return the oldest result that is ready: its own, or the previous step's.

        Raises StepFailed when anything goes wrong; what was in flight is lost then and the pools are new.
        """
        started_s = time.monotonic()
        try:
            tokens = self._forward(plan)
            previous, self._in_flight = self._in_flight, (plan, tokens, started_s)
            if self._host is not None:
                return self.drain()
            mx.async_eval(tokens, *self._scored(plan), *self._written())
            return None if previous is None else self._read(*previous)
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error

    def drain(self) -> StepResult | None:
        """Wait for the step in flight and return its result, if there is one. Raises StepFailed."""
        if self._in_flight is None:
            return None
        try:
            result = self._read(*self._in_flight)
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error
        self._in_flight = None
        return result

    def _read(self, plan: StepPlan, tokens: mx.array, started_s: float) -> StepResult:
        """Wait for a step's tokens. It has taken the time since its start, or since the result before."""
        sampled = np.array(tokens).tolist()
        by_sequence = {row.seq_id: token for row, token in zip(plan.decode, sampled, strict=True)}
        begun_s, self._last_read_s = max(started_s, self._last_read_s), time.monotonic()
        logprobs = self._logprobs.pop(plan.step_id, None)
        elapsed_s = self._last_read_s - begun_s
        return StepResult(plan.step_id, by_sequence, elapsed_s, logprobs.read() if logprobs else {})

    def _reset(self) -> None:
        """Forget what is in flight and every KV: arrays of a failed evaluation cannot be trusted."""
        self._in_flight = None
        self._logprobs = {}
        self._pools = self._new_pools()

    def _written(self) -> list[mx.array]:
        """Arrays whose evaluation makes the writes of this step real."""
        if isinstance(self._pools, HostPools):
            return []
        return self._pools.arrays() if self._kernels is None else self._pools.write_fences

    def _forward(self, plan: StepPlan) -> mx.array:
        tokens = self._decode(plan) if plan.decode else mx.zeros((0,), mx.int32)
        for chunk in plan.prefill:
            self.prefill(chunk)
        return tokens

    def _decode(self, plan: StepPlan) -> mx.array:
        logits = self.logits(plan.decode)
        tokens = sample(logits, plan.decode)
        logprobs = compute_logprobs(logits, plan.decode, tokens)
        if logprobs is not None:
            self._logprobs[plan.step_id] = logprobs
        return tokens

    def _scored(self, plan: StepPlan) -> list[mx.array]:
        """Arrays whose evaluation makes the log-probabilities of a step real."""
        logprobs = self._logprobs.get(plan.step_id)
        return [] if logprobs is None else logprobs.arrays()

    def logits(self, rows: list[DecodeRow]) -> mx.array:
        """Feed each row's token and return what follows it, (rows, vocab); lazy. Writes the tokens' KV."""
        tokens, positions, slot_ranges = (
            self._inputs(rows),
            [row.position for row in rows],
            [row.slot_ranges for row in rows],
        )
        if self._graphs is not None:
            assert isinstance(self._pools, ArrayPools)
            return self._graphs.logits(tokens, positions, slot_ranges, self._pools)
        context = ForwardContext(
            offsets=mx.array(positions),
            slots=np.array([row[-1][1] - 1 for row in slot_ranges], np.int32),
            slot_ranges=slot_ranges,
            samples=True,
        )
        logits: mx.array = self._model(tokens[:, None], cache=self._layers(context))
        return logits[:, -1]

    def _inputs(self, rows: list[DecodeRow]) -> mx.array:
        """Each row's token: known, or still on the device as the previous step's sample."""
        known = [row.token or 0 for row in rows]
        if all(row.token is not None for row in rows):
            return mx.array(known)
        assert self._in_flight is not None, "a pending token needs a step in flight"
        plan, sampled, _ = self._in_flight
        sampled = mx.maximum(sampled, 0)
        index = {row.seq_id: i for i, row in enumerate(plan.decode)}
        source = [-1 if row.token is not None else index[row.seq_id] for row in rows]
        if source == list(range(len(plan.decode))):  # the batch has not changed
            return sampled
        chosen, sources = mx.array(known), mx.array(source)
        return mx.where(sources < 0, chosen, sampled[mx.maximum(sources, 0)])

    def prefill(self, chunk: PrefillChunk) -> None:
        """Write the KV of a slice of a prompt; lazy on MLX pools."""
        context = ForwardContext(
            offsets=mx.array([chunk.start]),
            slots=_last_slots(chunk.slot_ranges, len(chunk.tokens)),
            slot_ranges=[chunk.slot_ranges],
            samples=False,
        )
        # Lazy: nobody asks for the logits, so the projection to the vocabulary is never computed.
        self._model(mx.array([chunk.tokens]), cache=self._layers(context))


def _last_slots(slot_ranges: abc.Sequence[SlotRange], count: int) -> Slots:
    """The last `count` slots of `slot_ranges`, in token order."""
    parts: list[Slots] = []
    for first, end in reversed(slot_ranges):
        taken = min(count, end - first)
        parts.append(np.arange(end - taken, end, dtype=np.int32))
        count -= taken
        if not count:
            break
    return np.concatenate(parts[::-1])
