"""Do KV and states come back as they were saved, on this device? Asked before the first request."""

import logging

import mlx.core as mx
import numpy as np

from ...cache.disk.orders import FileKey, ReadOrder, WriteOrder
from ..step import RestoreOrder, SaveOrder
from .pool_bytes import PoolBytes, as_bytes

logger = logging.getLogger(__name__)

BELOW = 64
"""Drawn bytes are below it, so that no number of any type is NaN, which a device may change in a copy."""

KEY = FileKey("kv", b"", b"", 0, b"")


def comes_back(pools: PoolBytes) -> bool:
    """Whether what is pasted into the pools can be copied out of them, and pastes leave one another alone.

    The pools have three blocks and two slots at least of all that they have; what lies there is lost.
    """
    try:
        return _comes_back(pools)
    except Exception as error:
        logger.warning("KV cannot be copied to files and back: %s", error)
        return False


def _comes_back(pools: PoolBytes) -> bool:
    rng, layout = np.random.default_rng(0), pools.layout
    expected = []
    for slot, blocks in enumerate([(1,), (2, 0)]):
        window = blocks if layout.window_block_bytes else ()
        state_slot = slot if layout.state_bytes else None
        restore = RestoreOrder(ReadOrder("", KEY, 0, len(blocks), 0), blocks, state_slot, window)
        drawn = rng.integers(0, BELOW, pools.num_bytes(restore), dtype=np.uint8)
        pools.paste(restore, drawn.data)
        save = SaveOrder(WriteOrder("", KEY, len(drawn)), blocks, state_slot, window)
        expected.append((save, drawn.tobytes()))
    return all(_contents(pools, save) == kept for save, kept in expected)


def _contents(pools: PoolBytes, order: SaveOrder) -> bytes:
    copies = pools.copy(order)
    mx.eval([each for each in copies if isinstance(each, mx.array)])
    return b"".join(as_bytes(each) for each in copies)
