"""Runs steps on MLX, in the engine's process: the decode batch, the prefill chunks, sampling.

On a device that computes by itself (Metal, CUDA) a step is queued before the previous step's result is read,
so that the device does not wait for Python. On MLX's CPU device, where NumPy computes attention, `step()`
returns when its step is computed.
"""

import time
from typing import Any

import mlx.core as mx
import numpy as np

from ..cache.kv import ArrayPools
from ..cache.states import ArrayStates
from .attention.kernels.paged_kernels import PagedKernels
from .attention.mixed_layers import divide_last_layer, mixed_layers
from .attention.paged_model import PagedModel
from .decode_graphs import DecodeGraphs
from .forward_contexts import decode_context, slice_context
from .logprobs import compute_logprobs
from .paged_caches import Capacity, PagedCaches
from .recurrent.parted_layers import PartedStates
from .row_selection import take_rows
from .sampler import sample
from .slice_graphs import SliceGraphs
from .slice_parts import slice_parts
from .step import DecodeRow, PrefillChunk, StateSlots, StepFailed, StepPlan, StepResult
from .step_in_flight import Sampled, StepInFlight
from .transfers.disk_thread import DiskThread
from .transfers.transfers import Transfers


class Runner:
    """A model and its pools of KV and of recurrent states."""

    def __init__(
        self,
        paged: PagedModel,
        capacity: Capacity,
        on_host: bool,
        kernels: PagedKernels | None = None,
        mixed_tokens: int = 0,
    ) -> None:
        """Allocate pools of that capacity.

        on_host: keep KV and states in NumPy and attend there; only MLX's CPU device shares arrays with NumPy.
        kernels: the kernels that compute attention; None for plain MLX. Not used on the host.
        mixed_tokens: prompt tokens of a step up to which its slices and decode rows share one pass over the
            model; 0 for a pass each. See `choose_mixed_tokens` for the models that allow it.
        """
        self._paged = paged
        self._is_on_host = on_host
        self.caches = PagedCaches(paged, capacity, on_host, kernels)
        # A graph cannot hold what plain MLX does, which depends on the rows' slots.
        in_graphs = kernels if self.caches.all_by_kernels else None
        self._graphs = DecodeGraphs(paged, in_graphs) if in_graphs else None
        self._slice_graphs = SliceGraphs(paged, in_graphs) if in_graphs else None
        self._mixed_tokens = mixed_tokens
        if mixed_tokens:
            divide_last_layer(paged.model)
        self._in_flight: StepInFlight | None = None
        self._last_read_s = 0.0
        self._transfers = Transfers(DiskThread())

    def step(self, plan: StepPlan) -> StepResult | None:
        """Queue `plan` and return the previous result, if any; on the host, compute it and return its own.

        Raises StepFailed when anything goes wrong; the steps in flight are then lost and the pools empty.
        """
        started_s = time.monotonic()
        try:
            saved = self._transfers.begin(plan, self.caches.pool_bytes)
            sampled = self._forward(plan)
            previous, self._in_flight = self._in_flight, StepInFlight(plan, sampled, started_s, saved)
            if self._is_on_host:
                return self.drain()
            copies = [copied for each in saved for copied in each.copies]
            mx.async_eval(*sampled.arrays(), *copies, *self.caches.written_arrays())
            return None if previous is None else self._read(previous)
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error

    def drain(self) -> StepResult | None:
        """Wait for the step in flight and return its result, if there is one. Raises StepFailed."""
        if self._in_flight is None:
            return None
        try:
            result = self._read(self._in_flight)
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error
        self._in_flight = None
        return result

    def _read(self, step: StepInFlight) -> StepResult:
        """Wait for a step's result. It took the time since its start or the previous result."""
        tokens = np.array(step.sampled.tokens).tolist()
        by_sequence = {row.seq_id: token for row, token in zip(step.plan.decode, tokens, strict=True)}
        begun_s, self._last_read_s = max(step.started_s, self._last_read_s), time.monotonic()
        elapsed_s, logprobs = self._last_read_s - begun_s, step.sampled.logprobs
        scores = logprobs.read() if logprobs else {}
        self._transfers.write(step.saved)
        return StepResult(step.plan.step_id, by_sequence, elapsed_s, scores, *self._transfers.outcomes())

    def _reset(self) -> None:
        """Drop the step in flight, all KV and states: arrays of a failed evaluation cannot be trusted."""
        self._in_flight = None
        self._transfers.forget()
        self.caches.reset()

    def _forward(self, plan: StepPlan) -> Sampled:
        rows, chunks = plan.decode, plan.prefill
        if self._is_mixed(plan):
            sampled = self._sample(self.mixed_logits(rows, chunks), rows)
        else:
            sampled = self._sample(self.logits(rows) if rows else None, rows)
            for chunk in chunks:
                self.prefill(chunk)
        return sampled

    def _is_mixed(self, plan: StepPlan) -> bool:
        """Whether decode rows and slices share one pass over the model."""
        num_passes = bool(plan.decode) + len(plan.prefill)
        return num_passes > 1 and plan.num_tokens - len(plan.decode) <= self._mixed_tokens

    def _sample(self, logits: mx.array | None, rows: list[DecodeRow]) -> Sampled:
        if logits is None:
            return Sampled(mx.zeros((0,), mx.int32))
        is_pending = any(row.adjustment is not None and row.token is None for row in rows)
        tokens = sample(logits, rows, self._input_tokens(rows) if is_pending else None)
        return Sampled(tokens, compute_logprobs(logits, rows, tokens))

    def logits(self, rows: list[DecodeRow]) -> mx.array:
        """Feed each row's token, write its KV and its state; return the next token's logits, (rows, vocab).

        Lazy on MLX pools. Rows without a state from before their token have a pass of their own: the model
        itself knows what stands for such a state.
        """
        known = [row.state is None or row.state.before is not None for row in rows]
        if len(set(known)) < 2:
            return self._pass_logits(rows)
        order = sorted(range(len(rows)), key=known.__getitem__)
        first, later = order[: known.count(False)], order[known.count(False) :]
        parts = [self._pass_logits([rows[i] for i in part]) for part in (first, later)]
        places = sorted(range(len(rows)), key=order.__getitem__)
        return take_rows(mx.concatenate(parts), places)

    def _pass_logits(self, rows: list[DecodeRow]) -> mx.array:
        """Do what `logits` does, in one pass, or in one for each row where the model gets its KV itself."""
        if self._paged.is_fetched and len(rows) > 1:
            return mx.concatenate([self._pass_logits([row]) for row in rows])
        tokens = self._input_tokens(rows)
        if self._graphs is None:
            slots = [row.state for row in rows if row.state is not None]
            return self._run(tokens[:, None], self.caches.layers(decode_context(rows)), slots)[:, -1]
        assert isinstance(self.caches.pools, ArrayPools)
        assert isinstance(self.caches.states, ArrayStates)
        return self._graphs.logits(tokens, rows, self.caches.pools, self.caches.states)

    def _run(self, inputs: mx.array, layers: list[Any], slots: list[StateSlots]) -> mx.array:
        """Run the model from the states of `slots` to new ones; return its logits, see PagedModel.run."""
        before = [slot.before for slot in slots if slot.before is not None]
        logits, states = self._paged.run(inputs, layers, self.caches.states.read(before) if before else None)
        if states:
            self.caches.states.write([slot.after for slot in slots], states)
        return logits

    def mixed_logits(self, rows: list[DecodeRow], chunks: list[PrefillChunk]) -> mx.array | None:
        """Do what `logits` and `prefill` do for all rows and slices, in one pass over the model.

        Returns the rows' logits, (rows, vocab), None where there are no rows; lazy on MLX pools.
        """
        tokens = [mx.array([token for chunk in chunks for token in chunk.tokens])]
        offsets = [at for chunk in chunks for at in range(chunk.start, chunk.start + len(chunk.tokens))]
        slices = [(self.caches.layers(slice_context(chunk)), len(chunk.tokens)) for chunk in chunks]
        decode = None
        if rows:
            tokens.append(self._input_tokens(rows))
            offsets += [row.position for row in rows]
            decode = self.caches.layers(decode_context(rows))
        layers = mixed_layers(self._paged.layers, mx.array(offsets), slices, decode)
        logits, _ = self._paged.run(mx.concatenate(tokens)[:, None], layers)
        return logits[:, -1] if rows else None

    def _input_tokens(self, rows: list[DecodeRow]) -> mx.array:
        """Return the rows' input tokens, (rows,): known ones, or the previous step's samples on device."""
        known = [row.token or 0 for row in rows]
        if all(row.token is not None for row in rows):
            return mx.array(known)
        assert self._in_flight is not None, "a pending token needs a step in flight"
        previous = self._in_flight.plan.decode
        sampled = mx.maximum(self._in_flight.sampled.tokens, 0)  # NOT_A_NUMBER is no token
        index = {row.seq_id: i for i, row in enumerate(previous)}
        sources = [-1 if row.token is not None else index[row.seq_id] for row in rows]
        if sources == list(range(len(previous))):  # the batch has not changed
            return sampled
        stacked = mx.concatenate([sampled, mx.array(known)])
        return take_rows(
            stacked, [source if source >= 0 else len(previous) + i for i, source in enumerate(sources)]
        )

    def prefill(self, chunk: PrefillChunk) -> None:
        """Write the KV of a prompt's slice, and the states after and within it; lazy on MLX pools."""
        has_graphs = self._slice_graphs is not None and self._slice_graphs.are_possible
        if not (chunk.state and chunk.state.within and self._paged.leaves_states) or has_graphs:
            for part in slice_parts(chunk):
                self._prefill_whole(part)
            return
        before, kept = chunk.state.before, chunk.state.kept(len(chunk.tokens))
        states = PartedStates(None if before is None else self.caches.states.read([before]), list(kept))
        self._paged.run(mx.array([chunk.tokens]), self.caches.layers(slice_context(chunk)), states)
        for slot, rows in zip(kept.values(), states.left(self._paged.state_arrays), strict=True):
            self.caches.states.write([slot], rows)

    def _prefill_whole(self, chunk: PrefillChunk) -> None:
        """Do what `prefill` does for a slice without states within it."""
        if self._slice_graphs is not None:
            assert isinstance(self.caches.pools, ArrayPools)
            assert isinstance(self.caches.states, ArrayStates)
            if self._slice_graphs.prefill(chunk, self.caches.pools, self.caches.states):
                return
        slots = [] if chunk.state is None else [chunk.state]
        # The logits are not read, and MLX is lazy: the projection to the vocabulary is never computed.
        self._run(mx.array([chunk.tokens]), self.caches.layers(slice_context(chunk)), slots)
