"""The disk tier, as the scheduler uses it: what is saved and restored with each step."""

from collections.abc import Iterable

from ..cache.disk.disk_stats import DiskStats
from ..cache.disk.index import DiskIndex
from ..cache.tree_nodes import TreePosition
from ..engine.served_model import PoolLayout
from ..engine.step import StepPlan, StepResult
from .counters import Counters
from .disk_restores import DiskRestores, Restore
from .disk_saves import DiskSaves
from .kv_cache_manager import KVCacheManager
from .restored_states import RestoredStates
from .sequence import Sequence
from .step_cost import StepCost

REUSED_SHARE = 1 / 2
"""Share of a prompt that was cached where its conversation goes on, so that what is saved is likely used."""


class DiskTier:
    """Saves and restores. Until `open` it has none and does nothing."""

    def __init__(self, kv_cache: KVCacheManager, counters: Counters, cost: StepCost) -> None:
        self._kv_cache, self._cost = kv_cache, cost
        self._states = RestoredStates(kv_cache.states, counters)
        self._index: DiskIndex | None = None
        self._saves: DiskSaves | None = None
        self._restores: DiskRestores | None = None

    def open(self, index: DiskIndex, layout: PoolLayout) -> None:
        """Use `index` from now on."""
        self._index = index
        self._saves = DiskSaves(index, layout, self._kv_cache.states.is_used)
        self._restores = DiskRestores(index, self._kv_cache, self._states, self._cost)

    @property
    def is_busy(self) -> bool:
        """Whether anything is to be saved, is being written, or is being restored."""
        return self.is_saving or (self._restores is not None and self._restores.is_busy)

    @property
    def is_saving(self) -> bool:
        """Whether anything is to be saved or is being written."""
        return self._saves is not None and self._saves.is_busy

    @property
    def stats(self) -> DiskStats | None:
        """What the tier has done; None where there is none."""
        return None if self._index is None else self._index.stats

    @property
    def restores(self) -> list[Restore]:
        """The restores under way, which hold blocks and states."""
        return [] if self._restores is None else self._restores.active

    def waits(self, sequence: Sequence, watermark: int) -> bool:
        """Whether `sequence`, which could start now, waits for a restore; see DiskRestores."""
        return self._restores is not None and self._restores.waits(sequence, watermark)

    def save(self, sequence: Sequence, position: TreePosition | None) -> None:
        """Save the prefix of `sequence` that ends at `position`: its prompt is computed, or it has ended.

        Side requests and compactions are not saved: no later request goes on from them.
        """
        is_passing = sequence.conversation is not None and sequence.conversation.is_passing
        if self._saves is not None and position is not None and not is_passing:
            is_reused = (sequence.num_cached_tokens or 0) >= REUSED_SHARE * sequence.num_prompt_tokens
            self._saves.add(sequence.tokens, position, sequence.space, is_reused)

    def plan(self, plan: StepPlan) -> None:
        """Add to `plan` what its step saves and restores."""
        if self._saves is not None and self._restores is not None:
            self._restores.plan(plan)
            self._saves.plan(plan)

    def update(self, result: StepResult) -> None:
        """Take what a step has saved and restored."""
        if self._saves is not None and self._restores is not None:
            self._saves.note_written(result.written)
            self._restores.note_read(result.restored)

    def reset(self) -> None:
        """Let nothing under way enter the prefix tree, which is emptied."""
        if self._restores is not None:
            self._restores.void()

    def distrust(self, sequence: Sequence) -> None:
        """Remove from disk what `sequence` has in common with it: its KV may be broken."""
        if self._index is not None:
            self._index.forget(self._index.chain(sequence.tokens, sequence.space))

    def remove(self, tokens: list[int], space: bytes, first_block: int) -> None:
        """Remove from disk the KV of a space's `tokens` from a block on, and all that was computed after it.

        A file that has blocks before that one as well stays: others may need them.
        """
        if self._index is None:
            return
        chain = self._index.chain(tokens, space)
        starts = [order.first_block - order.offset for order in self._index.find(chain)]
        own = [start for start in starts if start >= first_block]
        if own:
            self._index.forget(chain, own[0])

    def fail(self, sequences: Iterable[Sequence]) -> None:
        """Drop all that is under way: the engine has, with all KV. `sequences`, which wait, look again.

        Where something was being restored they do not: it may be what made the step fail.
        """
        if self._index is None or self._saves is None or self._restores is None:
            return
        if not self._restores.is_busy:
            for sequence in sequences:
                sequence.is_searched = False
        self._saves.forget()
        self._restores.forget()
        self._index.writes.engine_lost()


def disk_tokens(sequence: Sequence) -> int:
    """Return how many of the computed tokens of `sequence`, which starts, it has waited for from disk."""
    restore = sequence.prefix_wait
    if not isinstance(restore, Restore):
        return 0
    return max(0, min(sequence.num_computed_tokens, restore.end) - restore.start)
