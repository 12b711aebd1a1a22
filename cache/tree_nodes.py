"""The parts of the prefix tree: its nodes and their owners, the nodes' checkpoints, positions in the tree."""

import math
from collections.abc import Container
from typing import NamedTuple

from .blocks import BLOCK_SIZE
from .state_store import KeptState

Edge = tuple[int, ...]


class Owner:
    """A conversation: it goes on where its newest cached prefix ends.

    gap_s: seconds that it is expected to stay away once its answer has ended; infinite if it does not return.
    nearness: 1 where that is soon, 0 if it does not return: the share of their worth that states for it have.
    is_passing: whether it is one request, to whose prefix nobody returns; what it finds cached is others'.
    """

    __slots__ = ("gap_s", "is_passing", "nearness")

    def __init__(self, is_passing: bool = False) -> None:
        self.gap_s, self.nearness = (math.inf, 0.0) if is_passing else (0.0, 1.0)
        self.is_passing = is_passing


class Node:
    """One cached block. The edges from the root to the node spell the prefix that the block ends."""

    __slots__ = (
        "block",
        "checkpoint",
        "children",
        "edge",
        "entry",
        "gap_s",
        "last_used",
        "owner",
        "parent",
    )

    def __init__(
        self, parent: "Node | None", edge: Edge, block: int, now: float, owner: Owner | None
    ) -> None:
        self.parent = parent  # None for the root and for an evicted node
        self.edge = edge
        self.block = block
        self.children: dict[Edge, Node] = {}
        self.owner = owner  # None once another conversation has gone on from here
        self.last_used = now
        self.gap_s = 0.0  # expected from the last use to the next one
        self.entry = 0  # the number of its valid entry in the tree's heap; 0 for none
        self.checkpoint: Checkpoint | None = None

    @property
    def rank(self) -> float:
        """The later, the sooner the node is expected to be used. See `radix.py`."""
        return self.last_used - self.gap_s


class Checkpoint:
    """The state after a node's prefix, as the tree keeps it."""

    __slots__ = (
        "above",
        "below",
        "is_passed",
        "is_reply",
        "node",
        "num_tokens",
        "num_uses",
        "state",
        "used_at_worth",
    )

    def __init__(self, position: "TreePosition", state: KeptState, is_reply: bool) -> None:
        self.node = position.node
        self.num_tokens = position.num_blocks * BLOCK_SIZE
        self.state = state
        self.is_reply = is_reply  # it ends an answer, whose text the next prompt may render differently
        self.above: Checkpoint | None = None  # the next one towards the root
        self.below: set[Checkpoint] = set()  # those whose `above` it is
        self.num_uses = 0  # sequences that have begun there
        self.is_passed = False  # whether a sequence has begun at a checkpoint below it since
        self.used_at_worth = 0.0  # the worth of the checkpoint evicted last, at the last use of this one

    @property
    def num_tokens_saved(self) -> int:
        """Tokens that a sequence which begins here would have to compute without this checkpoint."""
        return self.num_tokens - (self.above.num_tokens if self.above else 0)


class TreePosition(NamedTuple):
    """The last node of a prefix. The position is void once that node is evicted and has no parent."""

    node: Node
    num_blocks: int

    @property
    def blocks(self) -> list[int]:
        """The prefix's blocks, in order."""
        blocks, node = [], self.node
        while node.parent is not None:
            blocks.append(node.block)
            node = node.parent
        blocks.reverse()
        return blocks

    @property
    def tokens(self) -> list[int]:
        """The prefix's tokens."""
        edges, node = [], self.node
        while node.parent is not None:
            edges.append(node.edge)
            node = node.parent
        return [token for edge in reversed(edges) for token in edge]

    def num_shared(self, owners: Container[Owner | None]) -> int:
        """Return how many of the first blocks are not those of `owners` alone, up to the last such block."""
        node, num_blocks = self.node, self.num_blocks
        while node.parent is not None and node.owner in owners:
            node = node.parent
            num_blocks -= 1
        return num_blocks

    def prefix(self, num_blocks: int) -> "TreePosition":
        """Return the position of the first `num_blocks` blocks."""
        node = self.node
        for _ in range(self.num_blocks - num_blocks):
            assert node.parent is not None, "the position is void"
            node = node.parent
        return TreePosition(node, num_blocks)

    @property
    def checkpointed(self) -> "TreePosition":
        """The position of the longest prefix of this one that has a checkpoint; the root's where none has."""
        node, num_blocks = self.node, self.num_blocks
        while node.checkpoint is None and node.parent is not None:
            node = node.parent
            num_blocks -= 1
        return TreePosition(node, num_blocks)
