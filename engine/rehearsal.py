"""Finds which kernels a model needs on CUDA before any of them runs, so that all are compiled at a time.

MLX compiles a kernel at its first launch, 3 to 7 s each, one after another, and the checks of a model launch
some ten to twenty. Here the model's passes are built with kernels that note their launches. Of the results
nothing is evaluated. What a rehearsal misses is compiled at its first launch.
"""

import logging
import time
from dataclasses import replace
from itertools import pairwise

from ..cache.blocks import BLOCK_SIZE
from .attention.kernels.layer_kernels import Launch
from .attention.kernels.paged_kernels import PagedKernels, find_kernels
from .attention.paged_model import PagedModel
from .compiling.kept_kernels import LaunchRecorder, open_store
from .compiling.kernel_text import Declaration
from .find_functions import assumed_functions
from .paged_caches import Capacity
from .recurrent.kernel_states import KernelStates, are_moved
from .recurrent.layer_check import layer_trial
from .recurrent.layer_step import LayerStep, find_layers
from .runner import Runner
from .selfcheck import attention_trial, kinds
from .trial_sequence import TrialSequence, state_slots

logger = logging.getLogger(__name__)

SLICES = (0, 1, 40, 560)
"""Where the slices of a prompt begin and end: one of one token, of few, of more than MAX_PAIRS."""

ROWS = (1, 3)
"""Rows of the decode steps, as in `warm_up`."""

BLOCKS = -(-(SLICES[-1] + len(ROWS)) // BLOCK_SIZE)
"""Blocks of a sequence: of its prompt and of the tokens that are decoded after it."""


class RecordingKernels(PagedKernels):
    """Kernels that note their launches in place of computing."""

    def __init__(self, kernels: PagedKernels, recorder: LaunchRecorder) -> None:
        """kernels: those of the same device that compute."""
        super().__init__(*kernels.device)
        self._recorder = recorder

    def _declare(self, declaration: Declaration, copies_gaps: bool, workspace_bytes: int) -> Launch:
        return self._recorder.declare(declaration)


def compile_kernels(paged: PagedModel) -> None:
    """Compile, all at a time, what a model needs and what is not kept yet; nothing if not on CUDA.

    Raises nothing: what is not compiled here MLX compiles by itself.
    """
    kernels, store = find_kernels(), open_store()
    if kernels is None or store is None:
        return
    recorder, started_s = LaunchRecorder(), time.monotonic()
    rehearse(paged, RecordingKernels(kernels, recorder))
    rehearsed_s = time.monotonic()
    count = store.fill(recorder.kernels.values())
    times = rehearsed_s - started_s, time.monotonic() - rehearsed_s
    logger.info("%d of %d kernels compiled (%.1f s, %.1f s)", count, len(recorder.kernels), *times)


def rehearse(paged: PagedModel, kernels: PagedKernels) -> None:
    """Do what a model's checks and steps do, as far as they launch kernels. kernels: such that note launches.

    A part that fails ends there: the checks will say why.
    """
    for part in (_rehearse_attention, _rehearse_layers, _rehearse_passes):
        try:
            part(paged, kernels)
        except Exception as error:  # all that a model's own Python and MLX raise
            logger.info("some of the model's kernels are compiled one by one: %r", error)


def _rehearse_attention(paged: PagedModel, kernels: PagedKernels) -> None:
    """Attend, and move states."""
    if not paged.is_fetched:
        for spec in kinds(paged, kernels):
            attention_trial(spec, kernels)
    if are_moved(paged.state_arrays):
        states = KernelStates(paged.state_arrays, 2, kernels.launcher)
        states.write([1], states.read([0], 1))


def _rehearse_layers(paged: PagedModel, kernels: PagedKernels) -> None:
    """Take gated delta layers by themselves."""
    for layer in find_layers(paged.model).values():
        layer_trial(LayerStep(kernels.launcher), layer, 1)


def _rehearse_passes(paged: PagedModel, kernels: PagedKernels) -> None:
    """Take slices of prompts through the model, then decode."""
    faster = replace(paged, functions=assumed_functions(paged.model, kernels))
    count = max(ROWS)
    capacity = Capacity(count * BLOCKS, state_slots(paged, count))
    runner = Runner(faster, capacity, False, None if paged.is_fetched else kernels)
    sequences = [TrialSequence(paged, i, list(range(i, count * BLOCKS, count))) for i in range(count)]
    for sequence in sequences:
        for start, end in pairwise(SLICES):
            runner.prefill(sequence.chunk(start, end))
    for step, num_rows in enumerate(ROWS):
        runner.logits([sequence.row(SLICES[-1] + step) for sequence in sequences[:num_rows]])
