"""What a prefix cache would find that knows which prompts are to come: an upper bound for any policy.

Whenever memory is short, the block goes whose next use is farthest away, which no policy can do better
(Belady 1966). A prefix is used whenever what goes on from it is, so that leaves go first by themselves.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

from ...cache.blocks import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """A request as a fleet has sent it. tokens: of prompt and answer."""

    sent_s: float
    ended_s: float
    num_prompt: int
    tokens: list[int]

    @property
    def found_blocks(self) -> list[int]:
        """The blocks that a cache can have of the prompt, by their last tokens, which no other prefix has."""
        return self.tokens[BLOCK_SIZE - 1 : self.num_prompt - 1 : BLOCK_SIZE]

    @property
    def left_blocks(self) -> list[int]:
        """The blocks that the request leaves."""
        return self.tokens[BLOCK_SIZE - 1 : len(self.tokens) - 1 : BLOCK_SIZE]


class BestCache:
    """A cache of blocks that knows when each is used next. What running requests use stays."""

    def __init__(self, num_blocks: int, uses: dict[int, deque[float]]) -> None:
        """uses: of each block, the times at which prompts with it are sent."""
        self._num_blocks, self._uses = num_blocks, uses
        self._cached: set[int] = set()
        self._num_users: Counter[int] = Counter()
        self._idle: list[tuple[float, int]] = []  # a heap: next uses with a minus, perhaps outdated

    def begin(self, blocks: list[int]) -> int:
        """Use blocks, which a request that is sent now has; return how many were there."""
        found = sum(block in self._cached for block in blocks)
        for block in blocks:
            self._uses[block].popleft()
            self._hold(block)
        self._shrink()
        return found

    def end(self, blocks: list[int], left: list[int]) -> None:
        """Keep the blocks that a request has left, if that is of use, and use `blocks` no more."""
        for block in left[len(blocks) :]:
            self._hold(block)
        for block in left:
            self._num_users[block] -= 1
            heapq.heappush(self._idle, (-self._next_use(block), block))
        self._shrink()

    def _hold(self, block: int) -> None:
        self._cached.add(block)
        self._num_users[block] += 1

    def _next_use(self, block: int) -> float:
        uses = self._uses[block]
        return uses[0] if uses else inf

    def _shrink(self) -> None:
        while len(self._cached) > self._num_blocks and self._idle:
            next_use, block = heapq.heappop(self._idle)
            if block in self._cached and not self._num_users[block] and -next_use == self._next_use(block):
                self._cached.remove(block)


def best_share(requests: Iterable[ServedRequest], num_tokens: int) -> float:
    """Return the share of all prompt tokens that a memory of so many tokens would have at best."""
    served = list(requests)
    uses: dict[int, deque[float]] = defaultdict(deque)
    for request in sorted(served, key=lambda one: one.sent_s):
        for block in request.found_blocks:
            uses[block].append(request.sent_s)
    cache, num_found = BestCache(num_tokens // BLOCK_SIZE, uses), 0
    for request, is_end in _events(served):
        if is_end:
            cache.end(request.found_blocks, request.left_blocks)
        else:
            num_found += cache.begin(request.found_blocks)
    return num_found * BLOCK_SIZE / sum(request.num_prompt for request in served)


def _events(served: list[ServedRequest]) -> Iterator[tuple[ServedRequest, bool]]:
    """Yield each request when it is sent, and when it has ended."""
    events = [(one.sent_s, False, number) for number, one in enumerate(served)]
    events += [(one.ended_s, True, number) for number, one in enumerate(served)]
    for _, is_end, number in sorted(events):
        yield served[number], is_end
