"""What a runner saves to files another one restores, byte for byte, into other blocks and slots."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest

from pensieve.cache.disk.chains import Chain
from pensieve.cache.disk.orders import FileKey, ReadOrder, WriteOrder
from pensieve.engine.attention.paged_model import PagedModel, probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import (
    NO_BLOCK,
    PrefillChunk,
    RestoreOrder,
    SaveOrder,
    StepFailed,
    StepPlan,
    StepResult,
)
from pensieve.engine.transfers.copy_check import comes_back
from pensieve.engine.transfers.pool_bytes import PoolBytes, as_bytes

from ...families.random_model import random_model
from ...models import write_model
from ..recurrent_models import recurrent_model

BLOCKS, SLOT, WINDOW = (3, 1, 6), 2, (4, 2)
NEW_BLOCKS, NEW_SLOT, NEW_WINDOW = (5, NO_BLOCK, 0), 1, (0, 3)


def attention_model(model_type: str, kv_bits: int) -> Callable[[Path], PagedModel]:
    return lambda folder: probe(mlx_lm.utils.load_model(write_model(folder, model_type))[0], kv_bits)


MODELS = {
    "floats": (attention_model("llama", 16), Capacity(8)),
    "8 bits": (attention_model("llama", 8), Capacity(8)),
    "4 bits": (attention_model("llama", 4), Capacity(8)),
    "windows": (attention_model("gemma3_text", 16), Capacity(8, 0, 6)),
    "states": (lambda _: probe(recurrent_model("qwen3_next"), 16), Capacity(8, 4)),
    "latent": (lambda _: probe(random_model("deepseek_v3"), 16), Capacity(8)),
}


def orders_for(path: Path, runner: Runner) -> tuple[WriteOrder, ReadOrder]:
    chain = Chain(bytes(32))
    chain.extend(list(range(32 * len(BLOCKS))))
    key = FileKey("kv", bytes(32), chain.digests[0], 0, chain.tokens(0, len(BLOCKS)))
    size = runner.caches.pool_bytes.num_bytes(saved(runner, WriteOrder(str(path), key, 0)))
    return WriteOrder(str(path), key, size), ReadOrder(str(path), key, size, len(BLOCKS), 0)


def saved(runner: Runner, write: WriteOrder) -> SaveOrder:
    layout = runner.caches.pool_bytes.layout
    slot = SLOT if layout.state_bytes else None
    return SaveOrder(write, BLOCKS, slot, WINDOW if layout.window_block_bytes else ())


def restored(runner: Runner, read: ReadOrder) -> RestoreOrder:
    layout = runner.caches.pool_bytes.layout
    slot = NEW_SLOT if layout.state_bytes else None
    return RestoreOrder(read, NEW_BLOCKS, slot, NEW_WINDOW if layout.window_block_bytes else ())


def fill(pools: PoolBytes, seed: int) -> None:
    """Give the pools random contents."""
    rng = np.random.default_rng(seed)
    mx.random.seed(seed)
    for layer in range(len(pools._pools.keys)):
        for pool in pools._kept(layer):
            size = pool.rows.nbytes
            drawn = rng.integers(0, 255, size, dtype=np.uint8)
            if isinstance(pool.rows, mx.array):
                pool.rows[:] = mx.array(drawn).view(pool.rows.dtype).reshape(pool.rows.shape)
            else:
                pool.rows.reshape(-1).view(np.uint8)[:] = drawn
    for slot in range(4 if pools._states.state_arrays else 0):
        rows = [
            mx.random.normal((1, *array.shape)).astype(array.dtype) for array in pools._states.state_arrays
        ]
        pools._states.write([slot], rows)


def finish(runner: Runner, plan: StepPlan) -> StepResult:
    """Step until an order has ended."""
    results = runner.step(plan).results
    while not results or not results[-1].written + results[-1].restored:
        results = runner.drain().results or runner.step(StepPlan(plan.step_id + 1)).results
    return results[-1]


def contents(runner: Runner, blocks: tuple[int, ...], slot: int, window: tuple[int, ...]) -> list[bytes]:
    save = saved(runner, WriteOrder("", FileKey("kv", b"", b"", 0, b""), 0))._replace(blocks=blocks)
    save = save._replace(state_slot=None if save.state_slot is None else slot)
    save = save._replace(window=window if save.window else ())
    copies = runner.caches.pool_bytes.copy(save)
    mx.eval([each for each in copies if isinstance(each, mx.array)])
    return [bytes(as_bytes(each)) for each in copies]


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_restored_rows_are_those_that_were_saved(tmp_path: Path, kind: str, on_host: bool) -> None:
    make, capacity = MODELS[kind]
    paged = make(tmp_path / "model")
    first, second = (Runner(paged, capacity, on_host) for _ in range(2))
    fill(first.caches.pool_bytes, 1)
    fill(second.caches.pool_bytes, 2)
    write, read = orders_for(tmp_path / "file", first)
    (written,) = finish(first, StepPlan(1, saves=[saved(first, write)])).written
    assert written.errno is None
    untouched = contents(second, (1, 2, 3, 4, 6, 7), 0, (1, 2, 4, 5))
    (outcome,) = finish(second, StepPlan(1, restores=[restored(second, read)])).restored
    assert outcome.problem is None
    kept = (BLOCKS[0], BLOCKS[2])
    assert contents(second, (5, 0), NEW_SLOT, NEW_WINDOW) == contents(first, kept, SLOT, WINDOW)
    assert contents(second, (1, 2, 3, 4, 6, 7), 0, (1, 2, 4, 5)) == untouched
    assert first.caches.pool_bytes.layout == second.caches.pool_bytes.layout


def test_a_damaged_file_leaves_the_pools_as_they_are(tmp_path: Path) -> None:
    make, capacity = MODELS["floats"]
    runner = Runner(make(tmp_path / "model"), capacity, on_host=True)
    fill(runner.caches.pool_bytes, 1)
    write, read = orders_for(tmp_path / "file", runner)
    finish(runner, StepPlan(1, saves=[saved(runner, write)]))
    content = bytearray((tmp_path / "file").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "file").write_bytes(content)
    before = contents(runner, tuple(range(8)), 0, ())
    (outcome,) = finish(runner, StepPlan(2, restores=[restored(runner, read)])).restored
    assert outcome.problem == "damaged"
    assert contents(runner, tuple(range(8)), 0, ()) == before


def test_a_failed_step_drops_the_orders_and_the_next_ones_are_carried_out(tmp_path: Path) -> None:
    make, capacity = MODELS["floats"]
    runner = Runner(make(tmp_path / "model"), capacity, on_host=True)
    write, read = orders_for(tmp_path / "file", runner)
    broken = PrefillChunk(1, [1], 0, ())
    with pytest.raises(StepFailed):
        runner.step(
            StepPlan(1, prefill=[broken], saves=[saved(runner, write)], restores=[restored(runner, read)])
        )
    result = finish(runner, StepPlan(2, saves=[saved(runner, write)]))
    assert [outcome.errno for outcome in result.written] == [None]
    assert not result.restored


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_device_that_brings_back_other_bytes_is_noticed(
    tmp_path: Path, kind: str, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, capacity = MODELS[kind]
    pools = Runner(make(tmp_path / "model"), capacity, on_host).caches.pool_bytes
    assert comes_back(pools)
    honest = PoolBytes.copy
    monkeypatch.setattr(PoolBytes, "copy", lambda self, order: [each * 0 for each in honest(self, order)])
    assert not comes_back(pools)
