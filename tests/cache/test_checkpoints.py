import random
from itertools import pairwise

from pensieve.cache.blocks import BLOCK_SIZE, BlockAllocator
from pensieve.cache.checkpoints import MAX_ON_PATH, NEWEST, Checkpoints
from pensieve.cache.radix import RadixTree
from pensieve.cache.state_slots import StateAllocator
from pensieve.cache.state_store import KeptState, StateStore
from pensieve.cache.tree_nodes import Checkpoint, TreePosition


class Cache:
    """A tree of prompts, written as numbers that stand for a block each, with checkpoints."""

    def __init__(self, num_slots: int = 100, num_blocks: int = 3000) -> None:
        self.blocks = BlockAllocator(num_blocks)
        self.slots = StateAllocator(num_slots)
        self.windows = BlockAllocator(100)
        self.checkpoints = Checkpoints(StateStore(self.slots, self.windows))
        self.tree = RadixTree(self.blocks, self.checkpoints)

    def position(self, kinds: list[int]) -> TreePosition:
        """Cache the prompt and let go of it."""
        tokens = [kind for kind in kinds for _ in range(BLOCK_SIZE)]
        shared = self.tree.match([*tokens, 0]).blocks
        self.blocks.share(shared)
        blocks = shared + self.blocks.allocate(len(kinds) - len(shared))
        position = self.tree.insert(tokens, blocks)
        self.blocks.release(blocks)
        return position

    def put(self, kinds: list[int], is_reply: bool = False) -> Checkpoint:
        """Leave a checkpoint after the prompt, and let go of its slot."""
        position, slot = self.position(kinds), self.slots.allocate()
        self.checkpoints.put(position, KeptState(slot), is_reply)
        self.slots.release(slot)
        assert position.node.checkpoint is not None
        return position.node.checkpoint

    def put_window(self, kinds: list[int], window: list[int]) -> Checkpoint:
        """Leave a checkpoint of window blocks, which somebody holds, after the prompt."""
        position = self.position(kinds)
        self.checkpoints.put(position, KeptState(None, tuple(window)), is_reply=False)
        assert position.node.checkpoint is not None
        return position.node.checkpoint

    def evict(self) -> Checkpoint:
        (first,) = self.checkpoints.first_to_evict(1)
        self.checkpoints.evict(first)
        return first


def test_the_deepest_checkpoint_of_a_path_is_found() -> None:
    cache = Cache()
    assert cache.position([1, 2, 3]).checkpointed.num_blocks == 0
    cache.put([1, 2])
    cache.put([1, 9])
    found = cache.position([1, 2, 3]).checkpointed
    assert (found.num_blocks, len(found.blocks)) == (2, 2)
    assert cache.position([1, 3]).checkpointed.num_blocks == 0


def test_a_node_that_leaves_the_tree_loses_its_checkpoint() -> None:
    cache = Cache()
    cache.put([1, 2])
    assert (cache.slots.num_cached, cache.slots.num_free) == (1, 99)
    cache.tree.evict(1)
    assert (len(cache.checkpoints), cache.slots.num_free) == (0, 100)
    cache.put([1, 2])
    cache.put([3])
    cache.tree.clear()
    assert (len(cache.checkpoints), cache.slots.num_free) == (0, 100)


def test_a_second_checkpoint_of_a_prefix_is_not_taken() -> None:
    cache = Cache()
    first = cache.put([1, 2])
    assert cache.put([1, 2]) is first
    assert cache.slots.num_free == 99


def test_a_path_keeps_what_serves_its_marks_its_newest_and_a_sparse_rest() -> None:
    cache, path = Cache(), list(range(1, 2000))
    head, question = cache.put(path[:5]), cache.put(path[:900])
    for length in range(915, 1990, 15):
        marks = [5 * BLOCK_SIZE, 900 * BLOCK_SIZE + 40]
        cache.checkpoints.thin(cache.put(path[:length]), marks)
    kept = sorted(one.num_tokens // BLOCK_SIZE for one in cache.checkpoints)
    assert len(kept) == MAX_ON_PATH
    assert {head, question} <= set(cache.checkpoints)
    assert kept[-NEWEST:] == [1950, 1965, 1980]


def test_who_branches_off_a_thinned_path_computes_a_few_times_what_lies_behind_the_branch() -> None:
    cache, path = Cache(), list(range(1, 2000))
    for length in range(10, 1990, 15):
        cache.checkpoints.thin(cache.put(path[:length]), [])
    kept = sorted(one.num_tokens // BLOCK_SIZE for one in cache.checkpoints)
    assert len(kept) == MAX_ON_PATH
    assert all(b - a <= 3 * (kept[-1] - b) for a, b in pairwise(kept[: 1 - NEWEST]))


def test_more_marks_than_a_path_may_keep_do_not_lengthen_it() -> None:
    cache, path = Cache(), list(range(1, 200))
    for length in range(10, 190, 10):
        cache.checkpoints.thin(cache.put(path[:length]), [i * BLOCK_SIZE for i in range(10, length, 10)])
        assert len(cache.checkpoints) <= MAX_ON_PATH


def test_thinning_spares_other_paths() -> None:
    cache, path = Cache(), list(range(1, 500))
    cache.put(path[:10])
    branch = cache.put([*path[:15], 0])
    for length in range(20, 490, 10):
        cache.checkpoints.thin(cache.put(path[:length]), [])
    assert branch in cache.checkpoints
    assert len(cache.checkpoints) == MAX_ON_PATH + 1


def test_what_saves_least_is_evicted_first_and_what_a_sequence_uses_never() -> None:
    cache = Cache()
    long, short, held = cache.put(list(range(1, 101))), cache.put([500, 501]), cache.put([600])
    assert held.state.slot is not None
    cache.slots.share(held.state.slot)
    assert [cache.evict(), cache.evict()] == [short, long]
    assert cache.checkpoints.first_to_evict(1) == []
    cache.slots.release(held.state.slot)
    assert cache.evict() is held


def test_what_is_used_no_more_is_evicted_even_if_it_saves_much() -> None:
    cache = Cache()
    unused, number = cache.put(list(range(1, 101))), 1000
    while True:
        cache.put([number, number + 1])
        number += 2
        if cache.evict() is unused:
            break
    assert 20 < (number - 1000) // 2 < 200


def test_a_passed_checkpoint_goes_before_the_paths_end() -> None:
    cache = Cache()
    passed, end = cache.put(list(range(1, 61))), cache.put(list(range(1, 101)))
    cache.checkpoints.use(end)
    assert cache.evict() is passed
    assert end.num_tokens_saved == 100 * BLOCK_SIZE


def test_a_reply_is_dropped_when_a_sequence_goes_on_differently_above_it() -> None:
    cache = Cache()
    prompt, reply = cache.put([1, 2, 3]), cache.put([1, 2, 3, 4], is_reply=True)
    assert cache.checkpoints.use(reply) == 0
    assert cache.checkpoints.use(prompt) == 1
    assert list(cache.checkpoints) == [prompt]


def test_every_checkpoint_knows_its_neighbours_whatever_comes_and_goes() -> None:
    rng = random.Random(1)
    for _ in range(30):
        cache = Cache(num_slots=12)
        for _ in range(60):
            kinds = [rng.randint(0, 1) for _ in range(rng.randint(1, 6))]
            action = rng.choice(["put", "put", "evict", "thin", "use", "shrink"])
            known = list(cache.checkpoints)
            if action == "put" and cache.slots.num_free:
                cache.put(kinds, is_reply=rng.random() < 0.3)
            elif action == "evict" and known:
                cache.evict()
            elif action == "thin" and known:
                cache.checkpoints.thin(rng.choice(known), [rng.randint(0, 200)])
            elif action == "use" and known:
                cache.checkpoints.use(rng.choice(known))
            elif action == "shrink":
                cache.tree.evict(rng.randint(1, 3))
            for one in cache.checkpoints:
                parent = one.node.parent
                assert one.node.checkpoint is one
                assert parent is not None
                above = TreePosition(parent, one.num_tokens // BLOCK_SIZE - 1).checkpointed.node.checkpoint
                assert one.above is above
                assert all(below.above is one for below in one.below)
                assert above is None or one in above.below
            assert cache.slots.num_cached == len(cache.checkpoints)


def test_for_blocks_what_frees_least_for_its_loss_goes_last() -> None:
    """Two neighbours share three of four blocks; a third one is alone; the last one's are all held."""
    cache = Cache()
    held = cache.windows.allocate(10)
    upper = cache.put_window([1] * 40, held[:4])
    lower = cache.put_window([1] * 40 + [2], held[3:7])
    alone = cache.put_window([3] * 60, held[5:6] + held[7:8])
    cache.windows.release(held[:8])
    busy = cache.put_window([4], held[8:])
    assert cache.checkpoints.first_to_evict(4, for_blocks=True) == [lower, upper, alone, busy]
    assert cache.checkpoints.first_to_evict(4) == []
    for one in (lower, upper, alone):
        cache.checkpoints.evict(one)
    assert (cache.windows.num_free, cache.windows.num_cached, cache.windows.num_held) == (98, 0, 2)
