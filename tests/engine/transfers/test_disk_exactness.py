"""The promise of test_exactness.py through disk: what a second runner restores is what the first computed."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.disk_room import DiskLimits
from pensieve.cache.disk.folder import open_folder
from pensieve.cache.disk.index import DiskIndex
from pensieve.cache.disk.read_rules import ReadPace
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.runner import Runner
from pensieve.engine.served_model import WindowPool
from pensieve.scheduler import disk_saves

from ...budget import sampled, trials
from ...families.random_model import random_model
from ...models import WINDOW, write_model
from ..harness import QUANTISED_TIE, TIE, Machine, Verdict, grow_tree
from ..recurrent_models import recurrent_model

VOCAB = 512
POOL = WindowPool(WINDOW + 1, num_blocks=60, slice_tokens=48, max_running=8)
NUM_SLOTS = 30

Make = Callable[[Path], Any]


def attention_model(model_type: str) -> Make:
    return lambda folder: mlx_lm.utils.load_model(write_model(folder, model_type))[0]


KINDS: dict[str, tuple[Make, int, int, WindowPool | None]] = {
    "attention": (attention_model("llama"), 16, 0, None),
    "8 bits": (attention_model("llama"), 8, 0, None),
    "4 bits": (attention_model("llama"), 4, 0, None),
    "windows": (attention_model("gemma3_text"), 16, 0, POOL),
    "states": (lambda _: recurrent_model("qwen3_next"), 16, NUM_SLOTS, None),
    "latents": (lambda _: random_model("deepseek_v3"), 16, 0, None),
}
CASES = [(kind, on_host) for kind in KINDS for on_host in (True, False)]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short prompts are saved as well, reading always pays, and some is given up nevertheless.

    Compiling takes longer than these tests.
    """
    moods = random.Random(1)
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", BLOCK_SIZE)
    monkeypatch.setattr(disk_saves, "STATE_SHARE", 1000)
    monkeypatch.setattr(DiskIndex, "is_worth_restoring", lambda *_: True)
    monkeypatch.setattr(ReadPace, "is_too_slow", lambda *_: moods.random() < 0.1)
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize(
    ("kind", "on_host"), sampled(CASES, [("attention", True), ("windows", False), ("states", True)])
)
def test_tokens_of_restored_prefixes_are_exact(tmp_path: Path, kind: str, on_host: bool) -> None:
    """Runners one after the other on one folder; each goes on with what the earlier ones were asked."""
    make, kv_bits, num_slots, window = KINDS[kind]
    model, rng = make(tmp_path / "model"), random.Random(kind)
    verdict = Verdict(tie=TIE if kv_bits == 16 else QUANTISED_TIE)
    paged = probe(model, kv_bits)
    capacity = Capacity(200, num_slots, window.num_blocks if window else None)
    num_found = 0
    histories: list[list[int]] = []
    for _ in range(trials(3, 3, "PENSIEVE_DISK_TREES")):
        runner = Runner(paged, capacity, on_host)
        machine = Machine(runner, 200, num_state_slots=num_slots, window=window)
        layout = runner.caches.pool_bytes.layout
        with open_folder(tmp_path / "kv") as folder:
            limits = DiskLimits(10**9, 10**12, keep_free_bytes=0)
            machine.scheduler.disk.open(DiskIndex(folder, bytes(32), layout.block_bytes, limits), layout)
            again = [machine.add(tokens, 8) for tokens in rng.sample(histories, min(3, len(histories)))]
            machine.finish()
            for sequence in again + grow_tree(machine, rng, VOCAB, num_requests=4):
                verdict.judge(model, sequence, caches(model, paged, kind))
                histories.append(sequence.tokens)
        num_found += machine.scheduler.counters.disk_cache_hits
    print(f"{kind}: {verdict}, {num_found} tokens from disk")
    assert verdict.wrong == 0
    assert verdict.ties <= max(1, verdict.tokens / 1000)
    assert num_found > 0


def caches(model: Any, paged: Any, kind: str) -> list[Any] | None:
    """What the judge reads a sequence with."""
    if kind == "states":
        made: list[Any] = make_prompt_cache(model)
        return made
    return reference_caches(paged) if kind in ("8 bits", "4 bits") else None
