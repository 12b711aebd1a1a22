from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.scheduler.counters import Counters
from pensieve.scheduler.kv_cache_manager import KVCacheManager
from pensieve.scheduler.sequence import Sequence

from .driver import prompt_of, request


def sequence_of(tokens: list[int]) -> Sequence:
    return Sequence(1, request(tokens), max_length=1000)


def committed(kv_cache: KVCacheManager, tokens: list[int]) -> Sequence:
    """A sequence that holds blocks for `tokens`, with the KV of all of them written."""
    sequence = sequence_of(tokens)
    assert kv_cache.allocate(sequence, watermark=0)
    assert kv_cache.reserve(sequence, len(tokens))
    kv_cache.commit(sequence, len(tokens))
    return sequence


def test_blocks_that_one_sequence_has_committed_are_allocated_to_the_next() -> None:
    kv_cache, tokens = KVCacheManager(8, Counters()), prompt_of(1, 100)
    first = committed(kv_cache, tokens)
    second = sequence_of(tokens)
    assert kv_cache.allocate(second, watermark=0)
    assert second.block_table.blocks == first.block_table.blocks[:3]
    assert second.num_computed_tokens == second.num_committed_tokens == 3 * BLOCK_SIZE


def test_the_watermark_stays_available_and_a_prefix_is_not_evicted_for_its_own_end() -> None:
    kv_cache, tokens = KVCacheManager(8, Counters()), prompt_of(1, 3 * BLOCK_SIZE)
    kv_cache.free(committed(kv_cache, tokens))
    longer = sequence_of(tokens + prompt_of(2, 4 * BLOCK_SIZE))
    assert kv_cache.allocator.num_free == 5
    assert not kv_cache.allocate(longer, watermark=2)
    assert not longer.block_table.blocks
    assert kv_cache.allocate(longer, watermark=1)
    assert len(longer.block_table.blocks) == 3


def test_a_sequence_that_was_refused_is_looked_up_again_only_when_there_is_more() -> None:
    kv_cache = KVCacheManager(8, Counters())
    holder, refused = (
        committed(kv_cache, prompt_of(1, 5 * BLOCK_SIZE)),
        sequence_of(prompt_of(2, 4 * BLOCK_SIZE)),
    )
    assert not kv_cache.allocate(refused, watermark=0)
    assert refused.num_available_at_refusal == 3
    assert not kv_cache.allocate(refused, watermark=0)
    kv_cache.free(holder)
    assert kv_cache.allocate(refused, watermark=0)
    assert refused.num_available_at_refusal is None


def test_reserving_evicts_blocks_that_no_sequence_holds_and_takes_none_from_a_sequence() -> None:
    counters = Counters()
    kv_cache = KVCacheManager(8, counters)
    kv_cache.free(committed(kv_cache, prompt_of(1, 4 * BLOCK_SIZE)))
    holder = committed(kv_cache, prompt_of(2, 4 * BLOCK_SIZE))
    grower = sequence_of(prompt_of(3, 1))
    assert kv_cache.reserve(grower, 4 * BLOCK_SIZE)
    assert counters.evictions == 4
    assert not kv_cache.reserve(grower, 5 * BLOCK_SIZE)
    assert (len(holder.block_table.blocks), len(grower.block_table.blocks)) == (4, 4)


def test_nothing_is_matched_after_a_reset_of_the_prefix_cache() -> None:
    kv_cache, tokens = KVCacheManager(8, Counters()), prompt_of(1, 100)
    holder = committed(kv_cache, tokens)
    kv_cache.reset_prefix_cache()
    assert kv_cache.num_cached_tokens(sequence_of(tokens)) == 0
    kv_cache.free(holder)
    assert kv_cache.allocator.num_free == 8
