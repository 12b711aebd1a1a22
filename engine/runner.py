"""Runs steps on MLX, in the engine's process: the decode batch, the prefill chunks, sampling.

On a device that computes by itself (Metal, CUDA) a step of decode rows is queued before the result of the
step before is read, so that the device does not wait for Python. Where slices of prompts follow the rows, the
rows' tokens are read first, and the slices, lazy arrays until then, are queued last: MLX lets the host run
ahead by some ten command buffers, and then blocks. On MLX's CPU device, where NumPy computes attention,
`step()` returns when its step is computed.
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
from .step import (
    DecodeRow,
    PrefillChunk,
    StateSlots,
    StepFailed,
    StepPlan,
    StepResult,
    StepsDone,
    StepTime,
)
from .step_in_flight import Sampled, SlicesInFlight, StepInFlight
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
        self._slices: SlicesInFlight | None = None
        self._failure: StepFailed | None = None  # of slices, to be raised
        self._last_end_s = 0.0  # of a step
        self._transfers = Transfers(DiskThread())

    def step(self, plan: StepPlan) -> StepsDone:
        """Queue `plan`, but for slices that follow its decode rows; return what has come.

        On the host, compute it. Raises StepFailed when anything goes wrong, in this step or the slices of the
        one before; the steps in flight are then lost and the pools empty.
        """
        started_s = time.monotonic()
        try:
            self._check_slices()
            saved = self._transfers.begin(plan, self.caches.pool_bytes)
            step = StepInFlight(plan, self._forward(plan), started_s, saved)
            if self._is_on_host:
                self._in_flight = step
                return self._finish()
            copies = [copied for each in saved for copied in each.copies]
            mx.async_eval(*step.sampled.arrays(), *copies, *self.caches.written_arrays())
            if not self._has_slices_apart(plan):
                done, self._in_flight = self._finish(), step
                return done
            return self._queue_slices(step)
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error

    def proceed(self) -> None:
        """Queue the slices that the last step has left, which may block until most of them are computed.

        The next call raises what goes wrong; to call this before it is a matter of time alone.
        """
        if self._slices is None or not self._slices.arrays:
            return
        try:
            mx.async_eval(*self._slices.arrays)
            self._slices = self._slices._replace(arrays=[])
        except Exception as error:
            self._reset()
            self._failure = StepFailed(str(error))

    def drain(self) -> StepsDone:
        """Wait for what is in flight and return it. Raises StepFailed."""
        try:
            self._check_slices()
            return self._finish()
        except Exception as error:
            self._reset()
            raise StepFailed(str(error)) from error

    def _check_slices(self) -> None:
        """Have slices queued. Raises what went wrong with them."""
        self.proceed()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _queue_slices(self, step: StepInFlight) -> StepsDone:
        """Build a step's slices, and read its tokens before they are queued. Returns all that has come."""
        for chunk in step.plan.prefill:
            self.prefill(chunk)
        slices = SlicesInFlight.of(step, self.caches.written_arrays())
        done = self._finish()
        result = self._read(step)
        self._slices = slices
        if not step.plan.decode:
            self.proceed()  # nobody waits for tokens: the next step is planned when most of this is computed
        return StepsDone((*done.results, result), done.times)

    def _finish(self) -> StepsDone:
        """Wait for the end of the step in flight, or of slices, whichever there is."""
        results: tuple[StepResult, ...] = ()
        times: tuple[StepTime, ...] = ()
        if self._slices is not None:
            times = (self._end(self._slices),)
        if self._in_flight is not None:
            results = (self._read(self._in_flight),)
            times = (*times, self._time(self._in_flight.plan.step_id, self._in_flight.started_s))
        self._slices = self._in_flight = None
        return StepsDone(results, times)

    def _end(self, slices: SlicesInFlight) -> StepTime:
        """Wait for the end of a step's slices; return the step's time."""
        mx.eval(slices.end)
        return self._time(slices.step_id, slices.started_s)

    def _time(self, step_id: int, started_s: float) -> StepTime:
        """Return the time of a step that has just ended."""
        begun_s, self._last_end_s = max(started_s, self._last_end_s), time.monotonic()
        return StepTime(step_id, self._last_end_s - begun_s)

    def _read(self, step: StepInFlight) -> StepResult:
        """Wait for a step's tokens; return its result."""
        tokens = np.array(step.sampled.tokens).tolist()
        by_sequence = {row.seq_id: token for row, token in zip(step.plan.decode, tokens, strict=True)}
        logprobs = step.sampled.logprobs
        scores = logprobs.read() if logprobs else {}
        self._transfers.write(step.saved)
        return StepResult(step.plan.step_id, by_sequence, scores, *self._transfers.outcomes())

    def _reset(self) -> None:
        """Drop what is in flight, all KV and states: arrays of a failed evaluation cannot be trusted."""
        self._in_flight = self._slices = None
        self._transfers.forget()
        self.caches.reset()

    def _forward(self, plan: StepPlan) -> Sampled:
        """Run the decode rows, and slices that share their pass; on the host, also those that do not."""
        rows, chunks = plan.decode, plan.prefill
        if self._is_mixed(plan):
            return self._sample(self.mixed_logits(rows, chunks), rows)
        sampled = self._sample(self.logits(rows) if rows else None, rows)
        if self._is_on_host:
            for chunk in chunks:
                self.prefill(chunk)
        return sampled

    def _has_slices_apart(self, plan: StepPlan) -> bool:
        """Whether slices have passes over the model of their own."""
        return bool(plan.prefill) and not self._is_mixed(plan)

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
