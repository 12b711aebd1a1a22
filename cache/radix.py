"""The prefix tree: it finds the blocks that hold the KV of a token prefix.

It is a radix tree whose every edge is one full block of tokens, so that no node is ever split. Its keys are
the tokens themselves, never a hash of them: two prompts cannot be mistaken for one another.
Source of the idea: RadixAttention (SGLang, Zheng et al. 2023), at block grain as in vLLM's prefix caching.
Prefixes of different spaces have different roots, so that no one finds, or can time, what another has cached.

Of the leaves that nobody holds, the one goes first whose next use is expected last. A conversation comes back
after a gap, typically of `gap_s` seconds: short while its tools run, longer while its user reads, never if it
was a side request. Such gaps have long tails: who has stayed away for long will stay away for longer. With
the simplest such law (Lomax's, by which half of the gaps are longer than `gap_s`) the chance of a return in
the next second, once `age` seconds have passed, is 1 / (age + gap_s). As all blocks take the same memory, the
leaf with the greatest `age + gap_s` goes first, which is the least `last_used - gap_s`. This rank does not
change as time passes, so that a heap finds it; with equal gaps it is LRU. No rank keeps a block for ever,
since each falls behind those of later uses, and whatever the ranks are, all leaves can be evicted.
"""

import heapq
import math
from collections import abc

from .blocks import BLOCK_SIZE, BlockAllocator
from .checkpoints import Checkpoints
from .tree_nodes import Edge, Node, Owner, TreePosition

SPARE_ENTRIES = 1024
"""Void entries that the heap may have beside as many as there are blocks."""


class RadixTree:
    """Cached prefixes. The tree holds each of its blocks; evict() frees leaves without other holders.

    A node that leaves the tree loses its checkpoint.
    """

    def __init__(self, allocator: BlockAllocator, checkpoints: Checkpoints) -> None:
        self.num_blocks = 0
        self._checkpoints = checkpoints
        self._allocator = allocator
        self._roots: dict[bytes, Node] = {}  # by space
        self._clock = 0.0  # seconds; every use of a node has a time of its own
        # Every leaf is in the heap, with its rank or a lower one; evict() corrects the leaves it pops.
        self._heap: list[tuple[float, int, Node]] = []
        self._num_pushed = 0

    def tell_time(self, now_s: float) -> None:
        """Say that it is `now_s`, in seconds of some clock. A time before the last one is ignored."""
        self._clock = max(self._clock, now_s)

    def match(
        self,
        tokens: abc.Sequence[int],
        position: TreePosition | None = None,
        owner: Owner | None = None,
        space: bytes = b"",
    ) -> TreePosition:
        """Find the longest cached prefix of `tokens`, and mark its last block as used now.

        position: of a prefix of `tokens`, found earlier; the walk then begins there. The blocks before the
        last one count as used with it, as they are evicted after it.
        owner: the conversation that asks; a block of another one is shared from then on. space: whose
        prefixes are looked at.
        The caller must share() the position's blocks before the next eviction. At least one token is left
        uncached, so that a step has logits to sample from.
        """
        node, num_blocks = self._start(position, space)
        first = num_blocks * BLOCK_SIZE
        rest = tuple(tokens[first:])  # of which each block is a slice that can be a key
        for start in range(0, len(rest) - BLOCK_SIZE, BLOCK_SIZE):
            child = node.children.get(rest[start : start + BLOCK_SIZE])
            if child is None:
                break
            node = child
            num_blocks += 1
        if node.owner is not owner and owner is not None:
            if owner.is_passing and node.owner is not None:
                return TreePosition(node, num_blocks)  # what its owner will do there is not changed by this
            node.owner = None
        node.last_used, node.gap_s = self._tick(), 0.0
        return TreePosition(node, num_blocks)

    def insert(
        self,
        tokens: abc.Sequence[int],
        blocks: abc.Sequence[int],
        position: TreePosition | None = None,
        owner: Owner | None = None,
        space: bytes = b"",
    ) -> TreePosition:
        """Cache `blocks`, which hold the KV of the first `len(blocks)` full blocks of `tokens`.

        The tree becomes a holder of each new prefix's block. A prefix that is cached already keeps its block
        while anybody else holds it; else the block gives way to the new one. It could not be evicted before
        what goes on from it, and that is about to be held by whoever holds the new one.
        position: of a prefix of `tokens`, returned by an earlier match or insert; the walk then begins there.
        owner: the conversation whose tokens they are. space: to whose prefixes they are added.
        Returns the position of the whole prefix.
        """
        now = self._tick()
        node, num_blocks = self._start(position, space)
        is_new = False
        for i in range(num_blocks, len(blocks)):
            edge = tuple(tokens[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE])
            child = node.children.get(edge)
            if child is None:
                assert len(edge) == BLOCK_SIZE, "only full blocks are cached"
                child = self._add(node, edge, blocks[i], owner)
                is_new = True
            elif child.block != blocks[i] and self._allocator.ref_count(child.block) == 1:
                self._allocator.enter_tree(blocks[i])
                self._allocator.leave_tree(child.block)
                child.block = blocks[i]
            if child.owner is owner or child.owner is None:
                child.last_used, child.gap_s = now, 0.0
            node = child
        if is_new:
            self._push(node)  # the only leaf among the new nodes
        return TreePosition(node, len(blocks))

    def settle(self, position: TreePosition, owner: Owner, gap_s: float) -> None:
        """Note that `owner` has just stopped at `position`, and is expected back there after `gap_s` seconds.

        Its path upwards inherits this, as far as it is the owner's alone, when it is its turn to be a leaf.
        """
        node = position.node
        if node.parent is None:
            return  # the root, or evicted
        now = self._tick()
        if node.owner is owner or now - gap_s > node.rank:
            node.last_used, node.gap_s = now, gap_s
        if not node.children:
            self._push(node)  # its entry may be of a higher rank

    def share(self, position: TreePosition) -> None:
        """Note that other conversations are expected to go on at `position`, whatever becomes of this one."""
        position.node.owner = None

    def evict(self, count: int) -> int:
        """Free up to `count` blocks without other holders, leaves of the least rank first.

        Returns how many were freed.
        """
        held: list[Node] = []
        freed = 0
        while freed < count and self._heap:
            rank, entry, node = heapq.heappop(self._heap)
            if node.entry != entry:
                continue
            node.entry = 0
            if node.children or node.parent is None:
                continue  # no longer a leaf, or gone
            if node.rank > rank:
                self._push(node)
            elif self._allocator.ref_count(node.block) > 1:
                held.append(node)
            else:
                self._remove(node)
                freed += 1
        for node in held:
            self._push(node)
        return freed

    def num_evictable(self, at_most: int) -> int:
        """Return how many blocks `evict` could free, counted up to `at_most`."""
        leaves = [node for _, entry, node in self._heap if node.entry == entry]
        ends = [node for node in leaves if not node.children and node.parent is not None]
        num_children: dict[Node, int] = {}  # of nodes that lose some, how many are left
        count = 0
        while ends and count < at_most:
            node = ends.pop()
            if self._allocator.ref_count(node.block) > 1:
                continue
            count += 1
            parent = node.parent
            assert parent is not None
            num_children[parent] = num_children.get(parent, len(parent.children)) - 1
            if not num_children[parent] and parent.parent is not None:
                ends.append(parent)
        return count

    def drop(self, position: TreePosition, owners: abc.Container[Owner | None]) -> int:
        """Free the blocks on the path to `position`, and on its branches, that belong to `owners` alone.

        What somebody holds stays, with all before it. Returns how many blocks were freed.
        """
        num_shared = position.num_shared(owners)
        if position.node.parent is None or num_shared == position.num_blocks:
            return 0
        nodes = [position.prefix(num_shared + 1).node]
        for one in nodes:  # each before its children
            nodes += [child for child in one.children.values() if child.owner in owners]
        num_blocks = self.num_blocks
        for one in reversed(nodes):
            if not one.children and self._allocator.ref_count(one.block) == 1:
                self._remove(one)
        return num_blocks - self.num_blocks

    def clear(self) -> None:
        """Remove every node; blocks without other holders become free."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            node.parent = None
            self._checkpoints.forget(node)
            self._allocator.leave_tree(node.block)
        self._roots = {}
        self._heap = []
        self.num_blocks = 0

    def _start(self, position: TreePosition | None, space: bytes) -> TreePosition:
        """Return `position`, or that of the space's root if it is None or void."""
        if position is not None and position.node.parent is not None:
            return position
        if space not in self._roots:
            self._roots[space] = Node(None, (), -1, self._clock, None)
        return TreePosition(self._roots[space], 0)

    def _tick(self) -> float:
        """Return the time of a use: now, and later than all uses before it."""
        self._clock = math.nextafter(self._clock, math.inf)
        return self._clock

    def _add(self, parent: Node, edge: Edge, block: int, owner: Owner | None) -> Node:
        self._allocator.enter_tree(block)
        child = Node(parent, edge, block, self._clock, owner)
        parent.children[edge] = child
        self.num_blocks += 1
        return child

    def _remove(self, node: Node) -> None:
        """Remove a leaf. Its parent inherits its use, unless the parent has one that counts more.

        Within one conversation the newest use counts, else the one that is expected to recur first.
        """
        assert node.parent is not None
        self._checkpoints.forget(node)
        parent = node.parent
        del parent.children[node.edge]
        node.parent = None
        is_newer = node.owner is not None and node.owner is parent.owner and node.last_used > parent.last_used
        if is_newer or node.rank > parent.rank:
            parent.last_used, parent.gap_s = node.last_used, node.gap_s
        self.num_blocks -= 1
        self._allocator.leave_tree(node.block)
        if not parent.children and parent.parent is not None:
            self._push(parent)

    def _push(self, node: Node) -> None:
        """Put a leaf into the heap. Any entry that it had becomes void."""
        if len(self._heap) > 2 * self.num_blocks + SPARE_ENTRIES:
            self._heap = [item for item in self._heap if item[2].entry == item[1] and not item[2].children]
            heapq.heapify(self._heap)
        self._num_pushed += 1  # numbers entries, and breaks ties: nodes cannot be compared
        node.entry = self._num_pushed
        heapq.heappush(self._heap, (node.rank, node.entry, node))
