"""How long a step takes, as a sum of parts that is fitted to the steps measured so far.

    seconds = decode pass + a * rows + b * tokens that the rows attend to
            + pass of the first slice + passes of further slices + c * prompt tokens + d * pairs of tokens
            - what decode rows and slices save by sharing a step

Each pass over the model has a fixed part (its weights are read, its kernels are launched), so that the time
of a step divided by its tokens says little about the next step. All parts are fitted, and none is negative.
Where rows and slices go through the model together, the saving grows to a whole pass; where each has a pass
of its own, the saving stays 0.

The fit is least squares over sums that forget slowly, solved anew when a prediction is asked for. Three kinds
of steps (only rows, only slices, both) have sums of their own, because a long answer must not make the model
forget what prompts cost. Three things keep the model stable:

* A step's error is measured relative to the longer of the predicted and the measured time. The error of one
  step is then at most 1, and a step that is ten times too slow, as the first of a new shape may be, pulls
  less than a usual one.
* A weak pull towards the proportions of a typical device decides where steps leave it open, such as which
  part of the very first step was fixed.
* The median of measured to fitted time over the last steps of a kind corrects the fit. Where it leaves what
  is usual for the kind, the machine has become slower or faster, and all past times are scaled.

The engine measures truthful times: each result, also that of a step without decode rows, comes when its step
is computed.
"""

import math
from itertools import accumulate, pairwise
from operator import mul

from ..engine.step import StepPlan
from .positive_solution import solve_positive
from .step_kind import MEMORY, NUM_PARTS, KindOfStep, weighted_sum
from .step_load import StepLoad

TYPICAL = (10e-3, 1e-4, 2e-8, 10e-3, 10e-3, 2e-5, 2e-9, 10e-3)
"""Seconds of each part on one typical device, in the order of `_parts`. Only the proportions matter."""

SLICE_PASS, FURTHER_SLICE, TOKENS, PAIRS, SAVING = range(3, NUM_PARTS)

PULL = 1e-3
"""Weight of the pull towards a typical device's proportions, where a step that is predicted well has 1."""

MIXED_IN_A_ROW = 16
"""Steps with rows and slices in a row, after which a step without slices shows what rows alone cost."""

LOST = 40.0
"""Logarithm of measured to typical time that no device has: times without order have led the fit astray."""

UNASKED = 32
"""Steps after which the fit is solved without being asked for, to see in time that the speed has changed."""

FIRST_TOKENS = 128
"""Prompt tokens up to which predictions count before a step is measured."""

GROWTH = 8
"""Predictions count up to so many times the prompt tokens of the largest measured step."""


class StepCost:
    """Predicts the time of steps from the time of past ones. Its memory is bounded."""

    def __init__(self) -> None:
        self._sizes: set[tuple[int, ...]] = set()  # of measured steps
        self._forget()

    def _forget(self) -> None:
        """Begin as if no step had been measured."""
        self._kinds = {
            (True, False): KindOfStep(range(SLICE_PASS)),
            (False, True): KindOfStep(range(SLICE_PASS, SAVING)),
            (True, True): KindOfStep(range(NUM_PARTS)),
        }
        self._weights = [1.0] * NUM_PARTS  # of the parts, as multiples of TYPICAL
        self._log_scale = 0.0  # mean logarithm of measured time to TYPICAL's
        self._num_steps = 0
        self._is_stale = False
        self._most_tokens = 0
        self._mixed_in_a_row = 0

    @property
    def known_tokens(self) -> int:
        """Prompt tokens of a step up to which predictions can be relied on."""
        return max(FIRST_TOKENS, GROWTH * self._most_tokens)

    @property
    def needs_rows_alone(self) -> bool:
        """Whether the next step with decode rows should have no slices, to be measured."""
        return self._mixed_in_a_row >= MIXED_IN_A_ROW

    def record(self, load: StepLoad, elapsed_s: float) -> None:
        """Learn that a step of `load` took `elapsed_s`."""
        parts, elapsed_s = _parts(load), max(elapsed_s, 1e-7)
        self._num_steps += 1
        self._sizes.add(_size(load))
        change = math.log(elapsed_s / max(1e-12, weighted_sum([1.0] * SAVING + [0.0], parts)))
        self._log_scale += (change - self._log_scale) / min(self._num_steps, MEMORY)
        kind = self._kinds[_kind(load)]
        expected_s = kind.correction * weighted_sum(self._weights, parts) if self._num_steps > 1 else 0.0
        kind.add(self._num_steps, parts, elapsed_s, max(elapsed_s, expected_s))
        self._most_tokens = max(self._most_tokens, load.tokens)
        if load.rows:
            self._mixed_in_a_row = self._mixed_in_a_row + 1 if load.slices else 0
        self._is_stale = True
        if self._num_steps % UNASKED == 0:
            self._refresh()

    def expected_s(self, load: StepLoad) -> float | None:
        """Return the seconds that a step of `load` should take; None where none of its size was measured.

        The time is that of the last fit. Each number of the load counts as its power of two.
        """
        if _size(load) not in self._sizes:
            return None
        return self._correction(load) * weighted_sum(self._weights, _parts(load))

    def predict(self, load: StepLoad) -> float:
        """Return the seconds that a step of `load` will take."""
        self._refresh()
        return self._correction(load) * weighted_sum(self._weights, _parts(load))

    def divide(self, plan: StepPlan, elapsed_s: float) -> list[int]:
        """Divide a measured step among its decode rows, then its slices, in nanoseconds that add up to it.

        Rows share their pass equally. What rows and slices save by sharing the step all save, by their cost.
        """
        row_pass, row, context, first_pass, further_pass, token, pair = map(
            mul, self._weights[:SAVING], TYPICAL[:SAVING]
        )
        row += row_pass / max(1, len(plan.decode))
        costs = [row + context * (decode.position + 1) for decode in plan.decode]
        slice_pass = first_pass
        for chunk in plan.prefill:
            slice_load = StepLoad().with_slice(chunk.start, len(chunk.tokens))
            costs.append(slice_pass + token * slice_load.tokens + pair * slice_load.pairs)
            slice_pass = further_pass
        if sum(costs) <= 0:  # a fit to times that no device has
            costs = [1.0] * len(costs)
        sums = list(accumulate(costs, initial=0.0))
        scale = elapsed_s * 1e9 / sums[-1]
        ends_ns = [int(scale * total + 0.5) for total in sums]
        return [end - start for start, end in pairwise(ends_ns)]

    def prefill_rate(self, start: int, num_tokens: int) -> float | None:
        """Return how many tokens a second a prompt's slices compute from `start` on; None before any step.

        num_tokens: that are to be computed.
        """
        if not self._num_steps:
            return None
        load = StepLoad().with_slice(start, min(num_tokens, self.known_tokens))
        return load.tokens / max(1e-9, self.predict(load))

    def tokens_within(self, load: StepLoad, start: int, limit_s: float) -> int:
        """Return how many tokens a slice at `start` may have, added to `load`, for a step of `limit_s`.

        0 where the pass itself takes too long.
        """
        empty = load.with_slice(start, 0)
        left_s = limit_s - self.predict(empty)
        return self._tokens_of(left_s / self._correction(empty), start)

    def worthwhile_tokens(self, load: StepLoad, start: int, fixed_share: float) -> int:
        """Return how many tokens a slice at `start` needs for its pass to be `fixed_share` of its cost.

        load: what the slice is added to.
        """
        self._refresh()
        before, after = _parts(load), _parts(load.with_slice(start, 0))
        fixed_s = weighted_sum(self._weights, after) - weighted_sum(self._weights, before)
        return 1 + self._tokens_of(fixed_s * (1 / fixed_share - 1), start)

    def _correction(self, load: StepLoad) -> float:
        """Return the factor between the fit and the seconds of steps like `load`."""
        return self._kinds[_kind(load)].correction

    def _tokens_of(self, seconds: float, start: int) -> int:
        """Return how many tokens at `start` fill `seconds`, their pass and the correction left out."""
        if seconds <= 0:
            return 0
        pair_s = self._weights[PAIRS] * TYPICAL[PAIRS]
        token_s = self._weights[TOKENS] * TYPICAL[TOKENS] + pair_s * (start + 0.5)
        # The positive root of pair_s / 2 * n**2 + token_s * n = seconds, in the form that divides by no 0.
        divisor = token_s + math.sqrt(token_s**2 + 2 * pair_s * seconds)
        return int(min(self.known_tokens, 2 * seconds / max(divisor, 1e-12)))

    def _refresh(self) -> None:
        """Fit the parts to all steps measured so far."""
        if not self._is_stale:
            return
        self._is_stale = False
        scale = math.exp(self._log_scale)
        matrix = [[0.0] * NUM_PARTS for _ in range(NUM_PARTS)]
        kinds = self._kinds.values()
        for kind in kinds:
            for (i, j), product in zip(kind.pairs, kind.products, strict=True):
                matrix[i][j] += product
        right = [sum(values) for values in zip(*(kind.right for kind in kinds), strict=True)]
        for i in range(NUM_PARTS):
            matrix[i][i] += PULL / scale**2
            for j in range(i):
                matrix[j][i] = matrix[i][j]
            right[i] += PULL / scale if i != SAVING else 0.0
        self._weights = solve_positive(matrix, right)
        # A slice that shares its pass costs no less than nothing.
        self._weights[SAVING] = min(self._weights[SAVING], self._weights[SLICE_PASS])
        for kind in kinds:
            if (found := kind.correct(self._weights)) is not None:
                self._follow(*found)
        if abs(self._log_scale) > LOST:
            self._forget()

    def _follow(self, change: float, since: int) -> None:
        """Scale what is learnt to a machine that takes `change` times as long from step `since` on."""
        self._log_scale += math.log(change)
        self._weights = [weight * change for weight in self._weights]
        for kind in self._kinds.values():
            kind.scale(change, since)


def _size(load: StepLoad) -> tuple[int, ...]:
    return tuple(map(int.bit_length, load))


def _kind(load: StepLoad) -> tuple[bool, bool]:
    return load.rows > 0, load.slices > 0


def _parts(load: StepLoad) -> list[float]:
    """Return the seconds of each part on the typical device."""
    counts = (
        load.rows > 0,
        load.rows,
        load.rows_context,
        load.slices > 0,
        max(0, load.slices - 1),
        load.tokens,
        load.pairs,
        -(load.rows > 0 and load.slices > 0),
    )
    return [count * typical_s for count, typical_s in zip(counts, TYPICAL, strict=True)]
