"""Checkpoints: states that the prefix tree keeps, and which of them go first.

A model with recurrent layers, or one that forgets what its windows no longer see, can go on from a cached
prefix only where the state after that prefix was kept (`state_store.py`). A state takes as much memory as the
KV of some hundred or thousand tokens, so few are kept, in two ways:

* A path keeps at most `MAX_ON_PATH` checkpoints: the `NEWEST` at its end, where conversations go on, those
  that serve the marks of the request that computes it (the end of sessions' common head, the last question),
  and some others. When one more comes, the other one goes whose absence costs least: the tokens between its
  two neighbours, divided by its distance from the path's end and multiplied by the sequences that began
  there. What stays grows sparser geometrically.
* When slots or blocks run short, the checkpoint of least worth goes: the tokens that it saves, which count
  less where conversations have passed it, for each share of its memory that becomes free, plus the worth of
  what was evicted before its last use, so that unused ones age. The tokens of a conversation that is expected
  back later than others count less (`Owner.nearness`), as with the leaves of `radix.py`.
  Source: GreedyDual (Young 1994; Cao & Irani 1997), which is LRU weighted by cost and size.
"""

import heapq
import math
from collections import abc

from .blocks import BLOCK_SIZE
from .state_store import KeptState, StateStore
from .tree_nodes import Checkpoint, Node, Owner, TreePosition

MAX_ON_PATH = 8
"""Most checkpoints of one path from the root."""

NEWEST = 3
"""Checkpoints at a path's end that always stay: the last answer's end, its prompt's end, its question."""

PASSED_SHARE = 1 / 8
"""Share of its tokens that a passed checkpoint counts: only edits and other branches begin there."""


class Checkpoints:
    """All checkpoints of a prefix tree, which holds their states."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._all: dict[Checkpoint, None] = {}  # a set in order of arrival
        self._highest: set[Checkpoint] = set()  # those without another one above
        self._evicted_worth = 0.0  # of the checkpoint evicted last

    def __iter__(self) -> abc.Iterator[Checkpoint]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def put(self, position: TreePosition, state: KeptState, is_reply: bool) -> bool:
        """Keep `state`, which a sequence holds, for the prefix at `position`.

        Returns False where the prefix has a checkpoint, which then counts as used.
        """
        if position.node.checkpoint is not None:
            self.touch(position.node.checkpoint)
            return False
        checkpoint = Checkpoint(position, state, is_reply)
        self._store.enter_tree(state)
        self._all[checkpoint] = None
        self.touch(checkpoint)
        self._link(checkpoint, position)
        position.node.checkpoint = checkpoint
        return True

    def thin(self, checkpoint: Checkpoint, marks: abc.Sequence[int]) -> int:
        """Drop what the path that ends in `checkpoint` has too much. Returns how many were dropped.

        marks: lengths of prefixes, in tokens; the deepest checkpoint up to each stays if possible.
        """
        path = [checkpoint]
        while path[-1].above is not None:
            path.append(path[-1].above)
        num_dropped = max(0, len(path) - MAX_ON_PATH)
        for _ in range(num_dropped):
            marked = {next((one for one in path if one.num_tokens <= mark), None) for mark in marks}
            older = range(NEWEST, len(path))
            others = [i for i in older if path[i] not in marked]
            self._drop(path.pop(min(others or older, key=lambda i: _cost_of_absence(path, i))))
        return num_dropped

    def touch(self, checkpoint: Checkpoint) -> None:
        """Note that `checkpoint` is of use now."""
        checkpoint.used_at_worth = self._evicted_worth

    def use(self, checkpoint: Checkpoint) -> int:
        """Note that a sequence begins at `checkpoint`.

        The answers that ended right below it are dropped: the sequence goes on differently, as where a
        template leaves out the thoughts of earlier answers. Returns how many were dropped.
        """
        self.touch(checkpoint)
        checkpoint.num_uses += 1
        above = checkpoint.above
        while above is not None:
            above.is_passed = True
            above = above.above
        outdated = [one for one in checkpoint.below if one.is_reply and not one.below]
        for one in outdated:
            self._drop(one)
        return len(outdated)

    def first_to_evict(self, count: int, for_blocks: bool = False) -> list[Checkpoint]:
        """Return up to `count` checkpoints whose slots no sequence holds, those of least worth first.

        for_blocks: return those that free blocks at the least loss for each, then those that free none by
        themselves, because others have the same blocks.
        """
        if not for_blocks:
            evictable = [one for one in self._all if self._store.frees_slot(one.state)]
            return heapq.nsmallest(count, evictable, key=_worth)

        def loss(one: Checkpoint) -> float:
            share = self._store.frees_blocks(one.state)
            return _worth(one, share) if share else math.inf

        return heapq.nsmallest(count, self._all, key=loss)

    def is_worth_more(self, checkpoint: Checkpoint, num_tokens: int) -> bool:
        """Whether `checkpoint` is worth more than a state, used now, that saves `num_tokens`."""
        return _worth(checkpoint) > self._evicted_worth + num_tokens

    def evict(self, checkpoint: Checkpoint) -> None:
        """Drop `checkpoint`: its memory is needed, as far as no sequence holds it."""
        self._evicted_worth = max(self._evicted_worth, _worth(checkpoint))
        self._drop(checkpoint)

    def forget(self, node: Node) -> None:
        """Drop the checkpoint of `node`, if any: the node leaves the tree."""
        if node.checkpoint is not None:
            self._drop(node.checkpoint)

    def forsake(self, position: TreePosition, owner: Owner, num_tokens: int) -> None:
        """Drop the checkpoints of `owner` alone up to `position`: nobody returns behind `num_tokens`."""
        if position.node.parent is None:
            return  # void
        one = position.checkpointed.node.checkpoint
        while one is not None and one.num_tokens > num_tokens and one.node.owner is owner:
            above = one.above
            self._drop(one)
            one = above

    def _link(self, checkpoint: Checkpoint, position: TreePosition) -> None:
        """Insert `checkpoint` between its neighbours of the same paths."""
        above = position.checkpointed.node.checkpoint  # before the position's own node has one
        checkpoint.above = above
        siblings = above.below if above is not None else self._highest
        for one in list(siblings):
            if _leads_to(checkpoint, one):
                siblings.remove(one)
                checkpoint.below.add(one)
                one.above = checkpoint
        siblings.add(checkpoint)

    def _drop(self, checkpoint: Checkpoint) -> None:
        above = checkpoint.above
        siblings = above.below if above is not None else self._highest
        siblings.remove(checkpoint)
        siblings |= checkpoint.below
        for one in checkpoint.below:
            one.above = above
        checkpoint.node.checkpoint = None
        del self._all[checkpoint]
        self._store.leave_tree(checkpoint.state)


def _worth(checkpoint: Checkpoint, share_freed: float = 1.0) -> float:
    is_passed = checkpoint.is_passed and checkpoint.num_uses < 2
    saved = checkpoint.num_tokens_saved * (PASSED_SHARE if is_passed else 1)
    if checkpoint.node.owner is not None:
        saved *= checkpoint.node.owner.nearness
    return checkpoint.used_at_worth + saved / share_freed


def _cost_of_absence(path: list[Checkpoint], i: int) -> float:
    """Return what it costs if `path[i]`, which is not the path's end `path[0]`, is dropped."""
    gap = path[i - 1].num_tokens - (path[i + 1].num_tokens if i + 1 < len(path) else 0)
    return gap * max(1, path[i].num_uses) / (path[0].num_tokens - path[i].num_tokens)


def _leads_to(upper: Checkpoint, lower: Checkpoint) -> bool:
    """Whether the node of `upper` lies on the path to that of `lower`."""
    if lower.num_tokens <= upper.num_tokens:
        return False
    position = TreePosition(lower.node, lower.num_tokens // BLOCK_SIZE)
    return position.prefix(upper.num_tokens // BLOCK_SIZE).node is upper.node
