"""A runner without a model: its KV slots hold token ids, and the next token is a hash of those.

A sequence that reads a wrong, stale or unwritten slot gets other tokens than `spell()` says. A state
slot holds all tokens fed to it; one that is not its sequence's changes the next token.
"""

from collections.abc import Callable

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.served_model import WindowPool
from pensieve.engine.step import (
    DecodeRow,
    SlotRange,
    StateSlots,
    StepFailed,
    StepPlan,
    StepResult,
    StepsDone,
    StepTime,
)

from .residues import is_allowed

VOCAB = 1000


def next_token(tokens: list[int]) -> int:
    """Return the token that the make-believe model samples after `tokens`."""
    return hash(tuple(tokens)) % VOCAB


def nearest(token: int, allowed: bytes | None) -> int:
    """`token` if it is allowed, else the next one that is; 0 where none is, as the sampler has it."""
    candidates = ((token + i) % VOCAB for i in range(VOCAB))
    return next((candidate for candidate in candidates if is_allowed(candidate, allowed)), 0)


def spell(prompt: list[int], count: int) -> list[int]:
    """`prompt` and the `count` tokens that the model says after it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens


class OracleRunner:
    """Computes a step at once, but hands results out `lag` steps later, as a real device does.

    num_wrong_states: how often a row or slice has read a state, or a window, that was not its sequence's.
    """

    def __init__(
        self,
        num_slots: int,
        lag: int = 0,
        breaks: Callable[[StepPlan], bool] = lambda _: False,
        num_state_slots: int = 0,
        window: WindowPool | None = None,
    ) -> None:
        self._slots = [-1] * num_slots
        self._window = window
        self._window_slots = [-1] * ((window.num_blocks if window else 0) * BLOCK_SIZE)
        self._states: list[list[int]] = [[-1]] * num_state_slots
        self.num_wrong_states = 0
        self._lag = lag
        self._breaks = breaks
        self._results: list[StepResult] = []
        self._times: list[StepTime] = []
        self.plans: list[StepPlan] = []

    def step(self, plan: StepPlan) -> StepsDone:
        self.plans.append(plan)
        if self._breaks(plan):
            self._results.clear()
            self._times.clear()
            self._slots = [-1] * len(self._slots)
            self._window_slots = [-1] * len(self._window_slots)
            self._states = [[-1]] * len(self._states)
            raise StepFailed("scripted")
        _check_states(plan)
        self._store_windows(plan)
        tokens = {row.seq_id: self._decode(row) for row in plan.decode}
        for chunk in plan.prefill:
            for slot, token in zip(_slots(chunk.slot_ranges)[chunk.start :], chunk.tokens, strict=True):
                self._slots[slot] = token
            tokens_so_far = self._read(chunk.slot_ranges)
            self._see_window(chunk.window_ranges, tokens_so_far, len(chunk.tokens))
            self._advance(chunk.state, tokens_so_far, chunk.start)
        self._results.append(StepResult(plan.step_id, tokens))
        self._times.append(StepTime(plan.step_id, 1e-5 * plan.num_tokens))
        # As from a device: where slices follow, tokens are known at once, and the step's end later.
        return self._take(0 if plan.prefill else self._lag, self._lag)

    def proceed(self) -> None:
        """See Runner.proceed: nothing is ever left to queue."""

    def drain(self) -> StepsDone:
        return self._take(0, 0)

    def _take(self, results_left: int, times_left: int) -> StepsDone:
        """Hand over results and times, but for so many of the newest."""
        num_results, num_times = len(self._results) - results_left, len(self._times) - times_left
        done = StepsDone(tuple(self._results[: max(0, num_results)]), tuple(self._times[: max(0, num_times)]))
        del self._results[: len(done.results)], self._times[: len(done.times)]
        return done

    def _decode(self, row: DecodeRow) -> int:
        token = self._fed_token(row)
        self._slots[row.slot_ranges[-1][1] - 1] = token
        tokens = self._read(row.slot_ranges)
        assert len(tokens) == row.position + 1
        self._see_window(row.window_ranges, tokens, 1)
        is_right = self._advance(row.state, tokens, row.position)
        return nearest(next_token(tokens if is_right else [*tokens, 0]), row.allowed)

    def _read(self, slot_ranges: tuple[SlotRange, ...]) -> list[int]:
        tokens: list[int] = []
        for first, end in slot_ranges:
            tokens += self._slots[first:end]
        return tokens

    def _store_windows(self, plan: StepPlan) -> None:
        """Keep all new tokens in the pool of windows first, as one pass over rows and slices does."""
        new = [(row.window_ranges, [self._fed_token(row)]) for row in plan.decode]
        for slot_ranges, tokens in new + [(chunk.window_ranges, chunk.tokens) for chunk in plan.prefill]:
            assert bool(slot_ranges) == (self._window is not None)
            if slot_ranges:
                for slot, token in zip(_slots(slot_ranges)[-len(tokens) :], tokens, strict=True):
                    self._window_slots[slot] = token

    def _see_window(self, slot_ranges: tuple[SlotRange, ...], tokens: list[int], num_new: int) -> None:
        """Count a window that does not hold what the newest `num_new` of `tokens` see."""
        if self._window is None:
            return
        held = [self._window_slots[slot] for slot in _slots(slot_ranges)]
        seen = tokens[-(self._window.size + num_new - 1) :]
        assert slot_ranges[0][0] % BLOCK_SIZE == 0
        assert len(held) <= len(seen) + 2 * BLOCK_SIZE
        self.num_wrong_states += held[-len(seen) :] != seen

    def _fed_token(self, row: DecodeRow) -> int:
        return row.token if row.token is not None else self._pending_token(row.seq_id)

    def _pending_token(self, seq_id: int) -> int:
        return next(result.tokens[seq_id] for result in reversed(self._results) if seq_id in result.tokens)

    def _advance(self, state: StateSlots | None, tokens: list[int], start: int) -> bool:
        """Keep the state after `tokens`, of which those from `start` on are new.

        Returns whether the state before them is that of the other tokens.
        """
        assert (state is not None) == bool(self._states)
        if state is None:
            return True
        before = [] if state.before is None else self._states[state.before]
        is_right = before == tokens[:start]
        self.num_wrong_states += not is_right
        for num_tokens, slot in state.kept(len(tokens) - start).items():
            self._states[slot] = before + tokens[start : start + num_tokens]
        return is_right


def _check_states(plan: StepPlan) -> None:
    """No slot is written that the same pass reads, or writes twice."""
    states = [row.state for row in plan.decode] + [chunk.state for chunk in plan.prefill]
    pairs = [state for state in states if state is not None]
    written = [slot for pair in pairs for slot in (pair.after, *(slot for _, slot in pair.within))]
    assert len(set(written)) == len(written)
    assert not {pair.before for pair in pairs}.intersection(written)


def _slots(slot_ranges: tuple[SlotRange, ...]) -> list[int]:
    return [slot for first, end in slot_ranges for slot in range(first, end)]
