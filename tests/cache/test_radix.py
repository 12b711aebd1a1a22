from hypothesis import given
from hypothesis import strategies as st

from pensieve.cache.blocks import BLOCK_SIZE, BlockAllocator
from pensieve.cache.checkpoints import Checkpoints
from pensieve.cache.radix import RadixTree
from pensieve.cache.state_slots import StateAllocator
from pensieve.cache.state_store import StateStore
from pensieve.cache.tree_nodes import TreePosition


def prompt(*kinds: int) -> list[int]:
    """One block of equal tokens for each of `kinds`."""
    return [kind for kind in kinds for _ in range(BLOCK_SIZE)]


def tree_of(allocator: BlockAllocator) -> RadixTree:
    """A tree for a model without recurrent states."""
    return RadixTree(allocator, Checkpoints(StateStore(StateAllocator(0), BlockAllocator(0))))


def cache(tree: RadixTree, allocator: BlockAllocator, tokens: list[int]) -> list[int]:
    """Compute and cache `tokens` as a sequence would, and let go of it."""
    shared = tree.match(tokens).blocks
    allocator.share(shared)
    blocks = shared + allocator.allocate(len(tokens) // BLOCK_SIZE - len(shared))
    tree.insert(tokens, blocks)
    allocator.release(blocks)
    return blocks


def test_a_prefix_is_found_block_by_block() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    blocks = cache(tree, allocator, prompt(1, 2, 3))
    assert tree.match([*prompt(1, 2, 3), 9]).blocks == blocks
    assert tree.match([*prompt(1, 2, 4), 9]).blocks == blocks[:2]
    assert tree.match([*prompt(1, 2), *prompt(3)[:-1]]).blocks == blocks[:2]
    assert tree.match(prompt(2, 3, 9)).blocks == []


def test_one_token_is_always_left_to_compute() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    blocks = cache(tree, allocator, prompt(1, 2))
    assert tree.match(prompt(1, 2)).blocks == blocks[:1]


def test_a_branch_shares_its_stem() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    first = cache(tree, allocator, prompt(1, 2, 3))
    second = cache(tree, allocator, prompt(1, 2, 4))
    assert second[:2] == first[:2]
    assert allocator.num_cached == tree.num_blocks == 4


def test_a_known_prefix_keeps_its_block_while_somebody_holds_it() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    known = cache(tree, allocator, prompt(1))
    allocator.share(known)
    twin = allocator.allocate(2)
    tree.insert(prompt(1, 2), twin)
    assert tree.match([*prompt(1, 2), 0]).blocks == [*known, twin[1]]
    allocator.release(known)
    allocator.release(twin)
    assert allocator.num_free == 14


def test_a_block_that_nobody_holds_gives_way_to_that_of_who_goes_on_from_it() -> None:
    """Else it would count as available, and could not be evicted before what goes on from it."""
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    cache(tree, allocator, prompt(1, 3))
    twin = allocator.allocate(2)
    tree.insert(prompt(1, 2), twin)
    assert tree.match([*prompt(1, 2), 0]).blocks == twin
    assert (allocator.num_free, allocator.num_cached) == (13, 1)
    allocator.release(twin)
    assert tree.evict(9) == 3
    assert allocator.num_free == 16


def test_the_least_recently_used_leaf_goes_first() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    cache(tree, allocator, prompt(1, 2))
    cache(tree, allocator, prompt(1, 3))
    tree.match([*prompt(1, 2), 0])
    assert tree.evict(1) == 1
    assert len(tree.match([*prompt(1, 2), 0]).blocks) == 2
    assert len(tree.match([*prompt(1, 3), 0]).blocks) == 1
    assert tree.evict(9) == 2
    assert allocator.num_free == 16


def test_held_blocks_are_never_evicted() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    blocks = cache(tree, allocator, prompt(1, 2))
    allocator.share(blocks)
    assert tree.evict(9) == 0
    allocator.release(blocks)
    assert tree.evict(9) == 2


def test_clearing_returns_every_block() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    cache(tree, allocator, prompt(1, 2))
    cache(tree, allocator, prompt(3))
    tree.clear()
    assert allocator.num_free == 16
    assert tree.match([*prompt(1, 2), 0]).blocks == []


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=4)


@given(st.lists(st.tuples(PROMPTS, st.integers(0, 4)), max_size=40))
def test_the_tree_agrees_with_a_set_of_prefixes(steps: list[tuple[list[int], int]]) -> None:
    allocator = BlockAllocator(200)
    tree = tree_of(allocator)
    known: set[tuple[int, ...]] = set()
    positions: dict[tuple[int, ...], TreePosition] = {}  # found earlier, some of them void by now
    for kinds, num_evicted in steps:
        longest = max(n for n in range(len(kinds) + 1) if n == 0 or tuple(kinds[:n]) in known)
        found = tree.match([*prompt(*kinds), 0])
        assert found.num_blocks == len(found.blocks) == longest
        for length in range(len(kinds) + 1):
            assert tree.match([*prompt(*kinds), 0], positions.get(tuple(kinds[:length]))) == found
        positions[tuple(kinds[:longest])] = found
        for length in range(longest + 1):
            assert found.prefix(length).blocks == found.blocks[:length]
        cache(tree, allocator, prompt(*kinds))
        known |= {tuple(kinds[:n]) for n in range(1, len(kinds) + 1)}
        if num_evicted:
            tree.evict(num_evicted)
            known = {p for p in known if len(tree.match([*prompt(*p), 0]).blocks) == len(p)}
        assert allocator.num_cached == tree.num_blocks == len(known)
        assert allocator.num_free + allocator.num_cached == 200


@given(st.lists(st.tuples(PROMPTS, st.booleans()), max_size=20), st.integers(0, 20))
def test_as_many_can_be_evicted_as_are(steps: list[tuple[list[int], bool]], at_most: int) -> None:
    """Also where blocks in the middle of a prefix are held, or those before them are not."""
    allocator = BlockAllocator(200)
    tree = tree_of(allocator)
    for kinds, is_held in steps:
        cache(tree, allocator, prompt(*kinds))
        if is_held:
            allocator.share(tree.match([*prompt(*kinds), 0]).blocks[-1:])
    count = tree.num_evictable(at_most)
    assert count == tree.evict(at_most)
    assert count == at_most or tree.num_evictable(200) == 0


def test_an_insert_goes_on_from_where_the_last_one_ended() -> None:
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    blocks = allocator.allocate(3)
    position = tree.insert(prompt(1, 2, 3), blocks[:1])
    position = tree.insert(prompt(1, 2, 3), blocks, position)
    assert position.num_blocks == 3
    assert tree.match([*prompt(1, 2, 3), 0]).blocks == blocks


def test_a_position_whose_node_is_gone_is_void() -> None:
    """A twin's block was in the tree in place of ours, and has been evicted: begin at the root again."""
    allocator = BlockAllocator(16)
    tree = tree_of(allocator)
    for forget in (lambda: tree.evict(9), tree.clear):
        cache(tree, allocator, prompt(1))
        ours = allocator.allocate(2)
        position = tree.insert(prompt(1, 2), ours[:1], None)
        forget()
        tree.insert(prompt(1, 2), ours, position)
        assert tree.match([*prompt(1, 2), 0]).blocks == ours
        allocator.release(ours)
        tree.clear()
