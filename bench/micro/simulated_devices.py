"""Devices as functions from a step's load to its time, for simulations without a model.

A pass over the model takes the longer of two times: reading the weights that its tokens use, and computing
with them; then each row's own work, and attention, which reads the rows' KV or multiplies pairs of tokens.
That is not the form that the scheduler's cost model fits, so that a simulation tests the fit as well.
"""

import random
from dataclasses import dataclass

from ...scheduler.step_load import StepLoad


@dataclass(frozen=True)
class SimulatedDevice:
    """A device that serves one model. Times are seconds.

    Weights that only a share of tokens use, as those of a mixture of experts, are read by the share of
    experts that some token of the pass chooses.
    """

    name: str
    launch_s: float  # of a pass, whatever it computes
    dense_s: float  # reading the weights that each token uses
    experts_s: float  # reading all experts
    experts_share: float  # of the experts that one token uses
    token_s: float  # computing one token of a slice
    pair_s: float  # attention of a slice: one token to one other
    row_s: float  # one decode row: sampling, and what it cannot share with other rows
    context_s: float  # reading one token's KV
    is_ahead: bool  # whether a step is queued before the result of the one before is read
    shares_pass: bool = False  # whether rows and slices go through the model together
    new_shape_s: float = 0.0  # once for each new length of a slice
    noise: float = 0.05  # standard deviation of a time's logarithm

    def seconds(self, load: StepLoad) -> float:
        """Return the time of a step without noise."""
        attention_s = load.rows * self.row_s + load.rows_context * self.context_s + load.pairs * self.pair_s
        if self.shares_pass:
            return attention_s + self._pass_s(load.rows + load.tokens, load.tokens)
        each = load.tokens / max(1, load.slices)
        slices_s = load.slices * self._pass_s(each, each)
        return attention_s + slices_s + (self._pass_s(load.rows, 0) if load.rows else 0.0)

    def _pass_s(self, num_read: float, num_computed: float) -> float:
        share_read: float = 1 - (1 - self.experts_share) ** num_read
        read_s = self.dense_s + self.experts_s * share_read
        return self.launch_s + max(read_s, num_computed * self.token_s)

    def draw(self, load: StepLoad, rng: random.Random, is_new: bool) -> float:
        """Return the time of a step as it might be measured. is_new: a slice has a length not met before."""
        return self.seconds(load) * rng.lognormvariate(0, self.noise) + is_new * self.new_shape_s


# H200, Qwen3-4B shape, bf16: a decode pass of 10 to 17 ms at 16 rows, bound by the host; a slice's pass of
# 10 ms and 22 us a token, attention at 400 TFLOPS; measured there. A new length cost 60 ms once.
H200 = SimulatedDevice(
    name="H200, 4B bf16",
    launch_s=8e-3,
    dense_s=2e-3,
    experts_s=0,
    experts_share=1,
    token_s=22e-6,
    pair_s=4 * 4096 * 36 / 400e12,
    row_s=0.2e-3,
    context_s=3e-8,
    is_ahead=True,
    new_shape_s=60e-3,
)

# M4 Pro, 273 GB/s, 30B-A3B 4-bit: 17 GB of weights, 1 GB of them dense; 8 of 128 experts a token. mlx-lm's
# BENCHMARKS.md has 1754 prompt tokens/s and 113 tokens/s for an M4 Max, with twice the bandwidth and cores.
M4_PRO = SimulatedDevice(
    name="M4 Pro, 30B-A3B 4-bit",
    launch_s=6e-3,
    dense_s=1.0 / 273,
    experts_s=16.0 / 273,
    experts_share=8 / 128,
    token_s=1 / 950,
    pair_s=4 * 4096 * 48 / 6e12,
    row_s=0.3e-3,
    context_s=98_304 / 273e9,
    is_ahead=True,
)

# M5 Max, 614 GB/s, 27B 4-bit: 15 GB of weights. LM Studio decodes 26 tokens/s; splash takes 30 to 32 s for a
# cold prompt of 22,400 tokens (its issue 37). KV of 64 KiB a token.
M5_MAX = SimulatedDevice(
    name="M5 Max, 27B 4-bit",
    launch_s=10e-3,
    dense_s=15.0 / 614,
    experts_s=0,
    experts_share=1,
    token_s=1 / 850,
    pair_s=4 * 6144 * 16 / 20e12,
    row_s=0.8e-3,
    context_s=65_536 / 614e9,
    is_ahead=True,
)

# Two cores and the random model of `make bench`: with these values the trace `make bench` takes as long, and
# has the times between tokens, that a server took with four settings on a quiet machine.
CPU = SimulatedDevice(
    name="2-core CPU, toy",
    launch_s=12e-3,
    dense_s=0,
    experts_s=0,
    experts_share=1,
    token_s=150e-6,
    pair_s=3.5e-8,
    row_s=1.5e-3,
    context_s=2.5e-7,
    is_ahead=False,
    noise=0.15,
)

DEVICES = (H200, M4_PRO, M5_MAX, CPU)
