"""One model on two ranks: what one device answers, and all of it again where a rank is lost."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from pensieve.api.command.local_models import judge_model
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.rank_facts import RankFacts, check_alike, check_weights, hash_samples
from pensieve.engine.process import EngineProcess
from pensieve.engine.ranks.model_shards import shard_model
from pensieve.engine.ranks.plan_bytes import VERSION, decode_plan, encode_plan
from pensieve.engine.ranks.rank_hosts import (
    find_hosts,
    launched_hosts,
    launched_rank,
    local_environments,
)
from pensieve.engine.ranks.rank_link import RankError
from pensieve.engine.step import DecodeRow, PrefillChunk, SamplingParams, StateSlots, StepPlan
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.sequence import Request

from ..budget import sampled
from ..families.answers import ANSWER, CACHED
from ..families.random_model import random_model
from ..families.table import FAMILIES
from ..families.test_served_families import write_family
from ..models import write_model
from .process_driver import serve
from .rank_jobs import (
    build_ranks,
    build_with_a_spoilt_plan,
    build_without_a_rank,
    followers,
    judge_constrained_trees,
    judge_ranked_family,
    judge_ranked_trees,
    kill_ranks,
)
from .test_process import judge

TREES = int(os.environ.get("PENSIEVE_RANK_TREES", "2"))
KILLS = int(os.environ.get("PENSIEVE_RANK_KILLS", "1"))

NUM_REQUESTS = 3

DIVIDED = ["deepseek_v3", "glm4_moe_lite", "gpt_oss", "kimi_k3", "llama", "minimax", "qwen3_5", "qwen3_moe"]
"""Families whose classes mlx-lm can divide: of each kind of attention one, and hybrids."""


@pytest.fixture
def hostfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hostfile of two ranks on this machine; at the end nothing of theirs is left among temporary files."""
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")  # MLX's CPU device calls a C++ compiler
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield write_hosts(tmp_path / "hosts.json", "localhost", "127.0.0.1")
    assert not list(tmp_path.glob("pensieve-ring-*"))


def write_hosts(file: Path, *names: str, settings: tuple[str, ...] = ()) -> Path:
    file.write_text(json.dumps({"hosts": [{"ssh": name} for name in names], "envs": settings}))
    return file


@pytest.mark.parametrize("name", sampled(DIVIDED, kept=["qwen3_5"]))
def test_a_family_on_two_ranks_answers_as_on_one_device(tmp_path: Path, hostfile: Path, name: str) -> None:
    """The other rank once computed its logits' last sums behind those of slices, rank 0 before them."""
    folder = write_family(tmp_path / "model", FAMILIES[name])
    with EngineProcess() as engine:
        cached, num_seen, _ = engine.call(judge_ranked_family, folder, hostfile)
    assert cached == CACHED
    assert num_seen > ANSWER


@pytest.mark.slow
def test_random_trees_on_two_ranks_are_exact(tmp_path: Path, hostfile: Path) -> None:
    folder = write_model(tmp_path / "model")
    with EngineProcess() as engine:
        verdict = engine.call(judge_ranked_trees, folder, hostfile, TREES)
    assert verdict.tokens > 10 * TREES
    assert verdict.wrong == 0


def write_quantised(folder: Path) -> Path:
    """Write a model whose weights have 4 bits."""
    model, config = mlx_lm.utils.load_model(write_model(folder))
    nn.quantize(model, group_size=32, bits=4)
    parameters: Any = tree_flatten(model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(parameters))
    settings = {"quantization": {"group_size": 32, "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kv_bits", sampled([16, 8, 4], kept=[8]))
def test_quantised_weights_and_kv_and_constraints_on_two_ranks(
    tmp_path: Path, hostfile: Path, kv_bits: int
) -> None:
    folder = write_quantised(tmp_path / "model")
    with EngineProcess() as engine:
        verdict = engine.call(judge_constrained_trees, folder, hostfile, kv_bits)
    assert verdict.tokens > 30
    assert verdict.wrong == 0
    assert verdict.ties <= verdict.tokens / 100


@pytest.mark.parametrize(
    ("rank", "number"), sampled([(0, "KILL"), (1, "KILL"), (1, "STOP")], kept=[(1, "KILL")])
)
def test_requests_outlive_a_rank(tmp_path: Path, hostfile: Path, rank: int, number: str) -> None:
    """A rank that dies or stops is missed within 10 s; all ranks come back, and compute everything again."""
    folder, rng = write_model(tmp_path / "model"), random.Random(rank)

    async def lose_rank(loop: SchedulerLoop) -> None:
        for _ in range(KILLS):
            # One that is lost again while it runs alone, before it has a token, would count as the culprit.
            before, until = loop.stats().counters, rng.randint(NUM_REQUESTS + 1, 30)
            while loop.stats().counters.generation_tokens < before.generation_tokens + until:  # noqa: ASYNC110
                await asyncio.sleep(0)
            failed = loop.stats().counters.failed_steps
            kill_ranks(engine.pid, rank, signal.Signals[f"SIG{number}"])
            while loop.stats().counters.failed_steps == failed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    with EngineProcess() as engine:
        engine.start(build_ranks, folder, hostfile)
        first = followers(engine.pid)
        requests = [Request([i] * (20 * i + 1), SamplingParams(), 40 * KILLS) for i in range(NUM_REQUESTS)]
        generations = serve(engine, requests, meanwhile=lose_rank)
        assert followers(engine.pid) != first
    assert judge(folder, generations) == (40 * KILLS * NUM_REQUESTS, 0)


@pytest.mark.slow
def test_requests_outlive_an_exception_of_a_rank(tmp_path: Path, hostfile: Path) -> None:
    """Rank 0 is amid the step, in sums that the other rank will never join."""
    folder = write_model(tmp_path / "model")
    with EngineProcess() as engine:
        engine.start(build_with_a_spoilt_plan, folder, hostfile)
        requests = [Request([i] * (20 * i + 1), SamplingParams(), 20) for i in range(3)]
        generations = serve(engine, requests)
    assert (tmp_path / "spoilt").exists()
    assert judge(folder, generations) == (60, 0)


@pytest.mark.slow
def test_ranks_that_refuse_a_model_can_be_asked_for_another(tmp_path: Path, hostfile: Path) -> None:
    """As `pensieve models --hosts` does, which ended at the first model that cannot be divided."""
    for name in ("phi3", "llama"):
        write_model(tmp_path / name, name)
    with EngineProcess() as engine:
        verdicts = [
            judge_model(engine, EngineConfig(str(tmp_path / name), hosts=str(hostfile)), 4)
            for name in ("phi3", "llama")
        ]
    assert "cannot be divided" in verdicts[0].verdict
    assert [verdict.is_served for verdict in verdicts] == [False, True]


@pytest.mark.slow
def test_a_rank_that_is_lost_while_it_loads_ends_the_start(tmp_path: Path, hostfile: Path) -> None:
    """Rank 0 waited for ever in MLX: it checks itself with the others' help."""
    folder = write_model(tmp_path / "model")
    with EngineProcess() as engine, pytest.raises(ModelError, match="a rank is lost"):
        engine.start(build_without_a_rank, folder, hostfile)


def test_a_rank_that_does_not_start_ends_the_start(tmp_path: Path, hostfile: Path) -> None:
    """Rank 0 waited for it in MLX, for minutes."""
    write_hosts(hostfile, "localhost", "localhost", settings=("PYTHONMALLOC=none",))
    folder = write_model(tmp_path / "model")
    with EngineProcess() as engine, pytest.raises(RankError, match="rank 1 has ended with status 1 before"):
        engine.start(build_ranks, folder, hostfile)


def test_a_plan_crosses_as_bytes() -> None:
    rows = [
        DecodeRow(3, None, 70, ((0, 64), (96, 103)), SamplingParams()),
        DecodeRow(4, 9, 2, ((64, 67),), SamplingParams(), state=StateSlots(None, 5), window_ranges=((0, 3),)),
    ]
    chunk = PrefillChunk(7, [1, 2, 3], 32, ((128, 163),), StateSlots(2, 4, ((1, 6), (2, 8))), ((32, 35),))
    plan = StepPlan(12, rows, [chunk])
    data = encode_plan(plan)
    assert decode_plan(data) == plan
    for spoilt in (data[:-8], data[:-3], data + bytes(8), bytes([VERSION + 1]) + data[1:]):
        with pytest.raises(ValueError, match=r"plan|bytes"):
            decode_plan(spoilt)


def test_hosts_are_here_or_started_by_mlx_launch(tmp_path: Path) -> None:
    file = write_hosts(tmp_path / "hosts.json", "localhost", "localhost")
    found = find_hosts(str(file), {})
    assert found is not None
    with local_environments(found) as environments:
        assert [each["MLX_RANK"] for each in environments] == ["0", "1"]
        ring = Path(environments[0]["MLX_HOSTFILE"])
        assert len(json.loads(ring.read_text())) == 2
    assert not ring.exists()
    assert find_hosts(None, {}) is None
    for names, why in [(("localhost", "studio.local"), "mlx.launch"), (("localhost",), "fewer than two")]:
        with pytest.raises(RankError, match=why):
            find_hosts(str(write_hosts(file, *names)), {})
    with pytest.raises(RankError, match="no hostfile"):
        find_hosts(str(tmp_path / "none.json"), {})
    launched = {"MLX_RANK": "1", "NCCL_HOST_IP": "10.0.0.1", "MLX_WORLD_SIZE": "2"}
    hosts = launched_hosts(launched)
    assert hosts is not None
    assert (hosts.backend, hosts.address, launched_rank(launched)) == ("nccl", "10.0.0.1", 1)
    with pytest.raises(RankError, match="leave --hosts out"):
        find_hosts(str(file), launched)


def group(size: int) -> Any:
    return SimpleNamespace(size=lambda: size, rank=lambda: 0)


def test_a_model_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(RankError, match=r"kind phi3 .* no shard\(\)"):
        shard_model(random_model("phi3"), group(2))
    with pytest.raises(RankError, match="among 3 devices"):
        shard_model(random_model("llama"), group(3))
    with pytest.raises(RankError, match="it has 2 "):  # each rank's part has a size, but of half a head
        shard_model(random_model("llama"), group(4))


def test_ranks_that_differ_are_refused_with_the_difference() -> None:
    def facts(**alike: str) -> RankFacts:
        return RankFacts("here", "cpu", "CPU", 10, {"mlx": "1", "dtype": "float32"} | alike, {})

    check_alike([facts(), facts()])
    with pytest.raises(RankError, match=r"rank 2 has mlx 2, rank 0 has 1"):
        check_alike([facts(), facts(), facts(mlx="2")])


def test_ranks_with_other_weights_are_refused(tmp_path: Path) -> None:
    """Two trainings of one model have the same names and shapes."""
    one, other = (hash_samples(write_model(tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    check_weights([one, one])
    with pytest.raises(RankError, match="rank 1 has other weights"):
        check_weights([one, other])
