"""Which prefixes are written to disk, and when: the server's side of writing.

Two moments save a conversation's prefix: its prompt is computed, and its answer has ended. A few blocks go
with each step, so that nobody waits for copies; more of them where nothing decodes. A block is copied when
the step of its plan begins: whoever gets its memory later writes to it later, so nothing is held meanwhile.

What is written: full blocks of prompts of `MIN_TOKENS` and more; for models with states, blocks up to the
deepest checkpoint, that checkpoint where it is worth its bytes, and those at which others have begun.
Nothing is written at eviction: what is evicted was written at its turn, or was not worth it.
"""

from collections import deque
from dataclasses import dataclass

from ..cache.blocks import BLOCK_SIZE
from ..cache.disk.chains import Chain
from ..cache.disk.index import DiskIndex
from ..cache.disk.orders import WriteOutcome
from ..cache.disk.planned_writes import Rest
from ..cache.state_store import KeptState
from ..cache.tree_nodes import Checkpoint, TreePosition
from ..engine.served_model import PoolLayout
from ..engine.step import SaveOrder, StepPlan

MIN_TOKENS = 512
"""Tokens of the shortest prompt that is saved: side requests are shorter, and computed soon enough."""

BESIDE_ROWS_BYTES = 2**23
"""Most bytes that a step with decode rows copies, but for one file: readers wait meanwhile."""

ALONE_BYTES = 2**25
"""Most bytes that another step copies, but for one file."""

IN_FLIGHT_BYTES = 2**26
"""Most bytes that the engine's process holds for the disk; no more are copied then."""

MAX_LOOKS = 16
"""Most times that a step asks the index: each time it walks along a prefix."""

MAX_JOBS = 256
"""Prefixes that may wait to be saved; the oldest one is forgotten first."""

STATE_SHARE = 4
"""Most times that a checkpoint may be larger than the KV of the tokens that it saves."""

STATE_BLOCKS = 32
"""Blocks that a checkpoint must save to be written whatever its size."""


@dataclass(slots=True, eq=False)
class SaveJob:
    """A prefix to save. The job is void once its last block is evicted."""

    position: TreePosition
    chain: Chain
    blocks: list[int]
    checkpoints: list[Checkpoint]  # to write after the blocks
    is_reused: bool
    num_planned: int = 0  # of the blocks

    @property
    def is_void(self) -> bool:
        """Whether the tree has evicted the prefix."""
        return self.position.node.parent is None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to plan."""
        return self.num_planned == len(self.blocks) and not self.checkpoints


class DiskSaves:
    """The prefixes that wait to be saved, and the files that are being written."""

    def __init__(self, index: DiskIndex, layout: PoolLayout, has_states: bool) -> None:
        """has_states: whether a prefix is of use only with a checkpoint."""
        self._index, self._layout, self._has_states = index, layout, has_states
        self._jobs: deque[SaveJob] = deque(maxlen=MAX_JOBS)
        self._writing: dict[str, int] = {}  # bytes by path

    @property
    def is_busy(self) -> bool:
        """Whether anything is to be saved or is being written."""
        return bool(self._jobs or self._writing)

    def add(self, tokens: list[int], position: TreePosition, space: bytes, is_reused: bool) -> None:
        """Save the prefix of `tokens` that ends at `position`, if it is long enough, for requests of `space`.

        is_reused: whether a request has found a good part of it in memory or on disk before.
        """
        checkpoints: list[Checkpoint] = []
        if position.node.parent is None or self._index.writes.is_paused:
            return
        if self._has_states:
            position = position.checkpointed
        if position.num_blocks * BLOCK_SIZE < MIN_TOKENS:
            return
        chain = self._index.chain(tokens[: position.num_blocks * BLOCK_SIZE], space)
        if self._has_states:
            checkpoints = self._worthwhile(position, chain)
            if not checkpoints:
                return
        job = SaveJob(position, chain, position.blocks, checkpoints, is_reused)
        # The index is asked once at least, for the whole prefix, which then counts as used.
        num_saved = sum(order.num_blocks for order in self._index.find(chain))
        job.num_planned = min(num_saved, len(job.blocks) - 1)
        self._jobs.append(job)

    def plan(self, plan: StepPlan) -> None:
        """Add to `plan` what its step saves."""
        left, num_looks = BESIDE_ROWS_BYTES if plan.decode else ALONE_BYTES, 0
        while self._jobs and left > 0 and sum(self._writing.values()) < IN_FLIGHT_BYTES:
            num_looks += 1
            if num_looks > MAX_LOOKS:
                return
            job = self._jobs[0]
            orders, rest = ([], "refused") if job.is_void else self._next(job, left)
            if rest == "refused" or job.is_done:
                self._jobs.popleft()
            for order in orders:
                self._writing[order.write.path] = order.write.payload_bytes
                left -= order.write.payload_bytes
            plan.saves.extend(orders)
            if rest == "awaited":
                return

    def note_written(self, outcomes: list[WriteOutcome]) -> None:
        """Take note of writes that have ended."""
        for outcome in outcomes:
            self._writing.pop(outcome.order.path, None)
            self._index.writes.note_written(outcome)

    def forget(self) -> None:
        """Drop all jobs: no KV can be trusted, and nothing that is being written will be finished."""
        self._jobs.clear()
        self._writing.clear()

    def _next(self, job: SaveJob, most_bytes: int) -> tuple[list[SaveOrder], Rest]:
        """Return orders for a part of `job` of about `most_bytes`: blocks, or a checkpoint after them."""
        if job.num_planned < len(job.blocks):
            count = max(1, most_bytes // max(1, self._layout.block_bytes))
            num_planned = min(len(job.blocks), job.num_planned + count)
            orders, rest = self._index.writes.plan(job.chain, num_planned, job.is_reused)
            if rest != "awaited":
                job.num_planned = num_planned
            return [
                SaveOrder(order, tuple(job.blocks[order.key.first_block :][: order.key.num_blocks]))
                for order in orders
            ], rest
        if not job.checkpoints:
            return [], "none"
        checkpoint = job.checkpoints[0]
        num_blocks, state = checkpoint.num_tokens // BLOCK_SIZE, checkpoint.state
        if checkpoint.node.checkpoint is checkpoint:
            num_bytes = self._state_bytes(state)
            orders, rest = self._index.writes.plan_state(job.chain, num_blocks, num_bytes, job.is_reused)
        else:  # it was dropped meanwhile
            orders, rest = [], "none"
        if rest != "awaited":
            job.checkpoints.pop(0)
        return [SaveOrder(order, (), state.slot, state.window) for order in orders], rest

    def _worthwhile(self, position: TreePosition, chain: Chain) -> list[Checkpoint]:
        """Return the path's checkpoints to write: those that others have used, and the last where it pays."""
        last = position.node.checkpoint
        assert last is not None
        num_blocks = position.num_blocks
        num_gained = num_blocks - self._saved_blocks(chain, num_blocks)
        is_cheap = self._state_bytes(last.state) <= STATE_SHARE * num_gained * self._layout.block_bytes
        found = [last] if num_gained and (is_cheap or num_gained >= STATE_BLOCKS) else []
        while last.above is not None:
            last = last.above
            num_blocks = last.num_tokens // BLOCK_SIZE
            if last.num_uses and self._saved_blocks(chain, num_blocks) < num_blocks:
                found.insert(0, last)
        return found

    def _saved_blocks(self, chain: Chain, num_blocks: int) -> int:
        """Return after how many of the first `num_blocks` blocks the deepest state on disk is."""
        order = self._index.find_state(chain, num_blocks)
        return 0 if order is None else order.first_block + 1

    def _state_bytes(self, state: KeptState) -> int:
        slot_bytes = 0 if state.slot is None else self._layout.state_bytes
        return slot_bytes + len(state.window) * self._layout.window_block_bytes
