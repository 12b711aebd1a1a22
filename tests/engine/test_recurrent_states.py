"""The runner with recurrent models: slots alone decide which state a token is computed from.

Random sequences branch off others' states, are cut into slices, and decode in changing batches, in which some
tokens are taken back. What they sample is judged against one pass of mlx-lm's own over each sequence.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine import find_functions as find_functions_file
from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.find_functions import find_functions
from pensieve.engine.fused_model import fuse
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, SlotRange, StateSlots

from ..budget import sampled, trials
from .attention.compiled import needs_compiler
from .attention.cpp_kernels import CppKernels
from .attention.plain_kernels import PlainKernels, PlainRunner
from .harness import TIE
from .recurrent_models import CONFIGS, VOCAB, recurrent_model

CAPACITY = Capacity(num_blocks=300, num_state_slots=40)


def faster(paged: PagedModel, on_host: bool) -> PagedModel:
    """The model with this package's recurrences in its passes."""
    return replace(paged, functions=find_functions(paged.model, on_host))


def in_kernels(paged: PagedModel) -> Runner:
    """The model with all that CUDA's kernels compute, in C++."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(find_functions_file, "find_kernels", CppKernels)
        return Runner(faster(fuse(paged), on_host=False), CAPACITY, False, CppKernels())


ATTENDING: dict[str, Callable[[PagedModel], Runner]] = {
    "numpy": lambda paged: Runner(faster(paged, on_host=True), CAPACITY, on_host=True),
    "mlx": lambda paged: Runner(paged, CAPACITY, on_host=False),
    "c++": in_kernels,
    "kernels": lambda paged: PlainRunner(faster(paged, on_host=False), CAPACITY, False, PlainKernels()),
}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Most models compile an operation or two, which on a CPU takes longer than these tests."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@dataclass
class Branch:
    """A sequence, its blocks, and the slot of its newest state."""

    seq_id: int
    tokens: list[int]
    num_prompt: int
    num_computed: int
    blocks: list[int]
    slot: int | None
    checkpoints: dict[int, int] = field(default_factory=dict)  # slots of states, by the tokens before them

    def ranges(self, end: int) -> tuple[SlotRange, ...]:
        """The KV slots of the first `end` tokens, block by block."""
        starts = range(0, end, BLOCK_SIZE)
        return tuple(
            (block * BLOCK_SIZE, block * BLOCK_SIZE + min(BLOCK_SIZE, end - start))
            for block, start in zip(self.blocks, starts, strict=False)
        )


class Grove:
    """Drives a runner without a scheduler, and owns its slots."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.runner, self.rng = runner, random.Random(seed)
        self.branches: list[Branch] = []
        self.blocks = list(range(CAPACITY.num_blocks))
        self.slots = list(range(CAPACITY.num_state_slots))
        self.rng.shuffle(self.blocks)
        self.rng.shuffle(self.slots)

    def draw(self, count: int) -> list[int]:
        return [self.rng.randrange(VOCAB) for _ in range(count)]

    def next_slot(self, before: int | None) -> StateSlots:
        """A free slot to keep a state in; free slots come round after all others, as in a queue."""
        return StateSlots(before, self.slots.pop(0))

    def plant(self) -> Branch:
        """Start a sequence, from nothing or from another's checkpoint; compute its prompt but one token."""
        rng = self.rng
        origins = [(b, length) for b in self.branches for length in b.checkpoints]
        tokens, blocks, length, slot = [], [], 0, None
        if origins and rng.random() < 0.7:
            origin, length = rng.choice(origins)
            tokens, blocks = origin.tokens[:length], origin.blocks[: length // BLOCK_SIZE]
            slot = origin.checkpoints[length]
        tokens = tokens + self.draw(rng.choice([1, 2, 31, 32, 33, rng.randint(1, 80)]))
        branch = Branch(len(self.branches), tokens, len(tokens), length, list(blocks), slot)
        self.branches.append(branch)
        while branch.num_computed < len(tokens) - 1:
            rest = len(tokens) - 1 - branch.num_computed
            to_block = BLOCK_SIZE - branch.num_computed % BLOCK_SIZE
            self.slice(branch, min(rest, rng.choice([to_block, to_block, rng.randint(1, 50)])))
        return branch

    def slice(self, branch: Branch, count: int) -> None:
        start, end = branch.num_computed, branch.num_computed + count
        self.grow(branch, end)
        state = self.next_slot(branch.slot)
        chunk = PrefillChunk(branch.seq_id, branch.tokens[start:end], start, branch.ranges(end), state)
        self.runner.prefill(chunk)
        self.move(branch, end, state.after)

    def grow(self, branch: Branch, end: int) -> None:
        while len(branch.blocks) * BLOCK_SIZE < end:
            branch.blocks.append(self.blocks.pop())

    def move(self, branch: Branch, end: int, slot: int) -> None:
        """Give up the state before, unless it is a checkpoint; keep the new one if it may become one."""
        if branch.slot is not None and branch.slot not in self.kept():
            self.slots.append(branch.slot)
        branch.num_computed, branch.slot = end, slot
        if end % BLOCK_SIZE == 0 and self.rng.random() < 0.7:
            branch.checkpoints[end] = slot

    def kept(self) -> set[int]:
        return {slot for branch in self.branches for slot in branch.checkpoints.values()}

    def decode(self, branches: list[Branch]) -> None:
        """Sample a token for each; of some, go one token ahead first and take that back."""
        ahead = self.rng.sample(branches, self.rng.randint(0, len(branches)))
        states = [self.next_slot(branch.slot) for branch in branches]
        logits = self.logits(branches, states, [branch.tokens[-1] for branch in branches])
        if ahead:
            void = [self.next_slot(states[branches.index(branch)].after) for branch in ahead]
            for branch in ahead:
                branch.num_computed += 1
            self.logits(ahead, void, self.draw(len(ahead)))
            self.slots += [state.after for state in void]
            for branch in ahead:
                branch.num_computed -= 1
            again = [self.next_slot(branch.slot) for branch in ahead]
            repeated = self.logits(ahead, again, [branch.tokens[-1] for branch in ahead])
            for row, branch in enumerate(ahead):
                place = branches.index(branch)
                self.slots.append(states[place].after)
                logits[place], states[place] = repeated[row], again[row]
        for row, branch in enumerate(branches):
            self.move(branch, len(branch.tokens), states[row].after)
            branch.tokens.append(int(logits[row].argmax()))

    def logits(self, branches: list[Branch], states: list[StateSlots], tokens: list[int]) -> Any:
        rows = []
        for branch, state, token in zip(branches, states, tokens, strict=True):
            end = branch.num_computed + 1
            self.grow(branch, end)
            slots = branch.ranges(end)
            rows.append(DecodeRow(branch.seq_id, token, end - 1, slots, SamplingParams(), None, state))
        return np.array(self.runner.logits(rows))

    def cut(self) -> None:
        """Give up the checkpoints of some branch, except states that still are a branch's newest."""
        branch = self.rng.choice(self.branches)
        newest = {other.slot for other in self.branches}
        given, branch.checkpoints = set(branch.checkpoints.values()), {}
        self.slots += given - newest - self.kept()


def judge(model: Any, branch: Branch) -> tuple[int, int]:
    """Return how many sampled tokens differ from mlx-lm's own, and how many of them there are."""
    logits = np.array(model(mx.array([branch.tokens[:-1]]), cache=make_prompt_cache(model))[0])
    rows = logits[branch.num_prompt - 1 :]
    sampled_tokens = branch.tokens[branch.num_prompt :]
    wrong = [row.max() - row[token] > TIE for row, token in zip(rows, sampled_tokens, strict=True)]
    return sum(wrong), len(wrong)


SAMPLE = [
    ("qwen3_next", "numpy"),
    ("qwen3_next", "c++"),
    ("nemotron_h", "kernels"),
    ("falcon_h1", "mlx"),
    ("mamba", "numpy"),
]


@needs_compiler
@pytest.mark.parametrize(("kind", "attending"), sampled(product(CONFIGS, ATTENDING), SAMPLE))
def test_each_token_is_computed_from_the_state_of_its_slot(kind: str, attending: str) -> None:
    model = recurrent_model(kind)
    seen: set[int] = set()
    for seed in range(trials(1, 1, "PENSIEVE_GROVES")):
        grove = Grove(ATTENDING[attending](probe(model, 16)), seed)
        for _ in range(trials(4, 5)):
            for _ in range(grove.rng.randint(1, 2)):
                grove.plant()
            for _ in range(grove.rng.randint(1, 5)):
                grove.decode(grove.rng.sample(grove.branches, min(4, len(grove.branches))))
            if grove.rng.random() < 0.3:
                grove.cut()
        for branch in grove.branches:
            wrong, _ = judge(model, branch)
            assert wrong == 0, f"seed {seed}"
            seen.update(branch.tokens[branch.num_prompt :])
    assert len(seen) > 10, "answers vary"
