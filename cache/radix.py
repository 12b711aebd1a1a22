"""The prefix tree: it finds the blocks that hold the KV of a token prefix.

It is a radix tree whose every edge is one full block of tokens, so that no node is ever split. Its keys are
the tokens themselves, never a hash of them: two prompts cannot be mistaken for one another.
Source of the idea: RadixAttention (SGLang, Zheng et al. 2023), at block grain as in vLLM's prefix caching.
"""

import heapq
from collections import abc

from .blocks import BLOCK_SIZE, BlockAllocator
from .checkpoints import Checkpoints
from .tree_nodes import Edge, Node, TreePosition


class RadixTree:
    """Cached prefixes. The tree holds each of its blocks; evict() frees leaves without other holders.

    A node that leaves the tree loses its checkpoint.
    """

    def __init__(self, allocator: BlockAllocator, checkpoints: Checkpoints) -> None:
        self.num_blocks = 0
        self._checkpoints = checkpoints
        self._allocator = allocator
        self._root = Node(None, (), -1, 0)
        self._clock = 0
        # Every leaf is in the heap, perhaps with an outdated time; evict() corrects the leaves it pops.
        self._heap: list[tuple[int, int, Node]] = []
        self._num_pushed = 0

    def match(self, tokens: abc.Sequence[int], position: TreePosition | None = None) -> TreePosition:
        """Find the longest cached prefix of `tokens`, and mark its last block as used now.

        position: of a prefix of `tokens`, found earlier; the walk then begins there. The blocks before the
        last one count as used with it, as they are evicted after it.
        The caller must share() the position's blocks before the next eviction. At least one token is left
        uncached, so that a step has logits to sample from.
        """
        self._clock += 1
        node, num_blocks = self._start(position)
        first = num_blocks * BLOCK_SIZE
        rest = tuple(tokens[first:])  # of which each block is a slice that can be a key
        for start in range(0, len(rest) - BLOCK_SIZE, BLOCK_SIZE):
            child = node.children.get(rest[start : start + BLOCK_SIZE])
            if child is None:
                break
            node = child
            num_blocks += 1
        node.last_used = self._clock
        return TreePosition(node, num_blocks)

    def insert(
        self, tokens: abc.Sequence[int], blocks: abc.Sequence[int], position: TreePosition | None = None
    ) -> TreePosition:
        """Cache `blocks`, which hold the KV of the first `len(blocks)` full blocks of `tokens`.

        A prefix that is cached already keeps its block; the tree becomes a holder of each new prefix's block.
        position: of a prefix of `tokens`, returned by an earlier match or insert; the walk then begins there.
        Returns the position of the whole prefix.
        """
        self._clock += 1
        node, num_blocks = self._start(position)
        is_new = False
        for i in range(num_blocks, len(blocks)):
            edge = tuple(tokens[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE])
            child = node.children.get(edge)
            if child is None:
                assert len(edge) == BLOCK_SIZE, "only full blocks are cached"
                child = self._add(node, edge, blocks[i])
                is_new = True
            child.last_used = self._clock
            node = child
        if is_new:
            self._push(node)  # the only leaf among the new nodes
        return TreePosition(node, len(blocks))

    def evict(self, count: int) -> int:
        """Free up to `count` blocks without other holders, least recently used leaves first.

        Returns how many were freed.
        """
        held: list[Node] = []
        freed = 0
        while freed < count and self._heap:
            last_used, _, node = heapq.heappop(self._heap)
            if node.children or node.parent is None:
                continue  # no longer a leaf, or gone
            if node.last_used != last_used:
                self._push(node)
            elif self._allocator.ref_count(node.block) > 1:
                held.append(node)
            else:
                self._remove(node)
                freed += 1
        for node in held:
            self._push(node)
        return freed

    def clear(self) -> None:
        """Remove every node; blocks without other holders become free."""
        stack = [self._root]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            if node is not self._root:
                node.parent = None
                self._checkpoints.forget(node)
                self._allocator.leave_tree(node.block)
        self._root = Node(None, (), -1, self._clock)
        self._heap = []
        self.num_blocks = 0

    def _start(self, position: TreePosition | None) -> TreePosition:
        """Return `position`, or the root's if it is None or void."""
        return TreePosition(self._root, 0) if position is None or position.node.parent is None else position

    def _add(self, parent: Node, edge: Edge, block: int) -> Node:
        self._allocator.enter_tree(block)
        child = Node(parent, edge, block, self._clock)
        parent.children[edge] = child
        self.num_blocks += 1
        return child

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        self._checkpoints.forget(node)
        parent = node.parent
        del parent.children[node.edge]
        node.parent = None
        parent.last_used = max(parent.last_used, node.last_used)  # a use of the node was a use of its prefix
        self.num_blocks -= 1
        self._allocator.leave_tree(node.block)
        if not parent.children and parent is not self._root:
            self._push(parent)

    def _push(self, node: Node) -> None:
        self._num_pushed += 1  # a tie-break: nodes cannot be compared
        heapq.heappush(self._heap, (node.last_used, self._num_pushed, node))
