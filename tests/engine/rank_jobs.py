"""What the tests of ranks run in the engine's process of rank 0."""

import itertools
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading import build as build_module
from pensieve.engine.loading.build import build, plan_model
from pensieve.engine.ranks import rank_runner
from pensieve.engine.ranks.plan_bytes import encode_plan
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.runner import Runner
from pensieve.engine.served_model import ServedModel
from pensieve.engine.step import StepPlan

from ..families.answers import Judge, serve
from .harness import QUANTISED_TIE, TIE, Machine, Verdict, grow_tree, judge_trees


def build_ranks(folder: Path, hostfile: Path, kv_bits: int = 16) -> tuple[Runner, ServedModel]:
    """Plan and load a model on the ranks of a hostfile."""
    config = EngineConfig(str(folder), 2048, 0.05, kv_bits, str(hostfile))
    return build(plan_model(folder, config, max_batch=8))


def build_with_a_spoilt_plan(folder: Path, hostfile: Path) -> tuple[Runner, ServedModel]:
    """Do what `build_ranks` does; the first time, the other ranks cannot read the ninth plan."""
    marker, numbers = hostfile.with_name("spoilt"), itertools.count(1)

    def encode_spoilt(plan: StepPlan) -> bytes:
        is_spoilt = next(numbers) == 9 and not marker.exists()
        if is_spoilt:
            marker.touch()
        return encode_plan(plan)[: -8 if is_spoilt else None]

    pytest.MonkeyPatch().setattr(rank_runner, "encode_plan", encode_spoilt)
    return build_ranks(folder, hostfile)


def build_without_a_rank(folder: Path, hostfile: Path) -> tuple[Runner, ServedModel]:
    """Do what `build_ranks` does, and lose rank 1 when this one begins to load."""
    load_runner = build_module.load_runner

    def load_alone(*arguments: Any) -> Runner:
        kill_ranks(os.getpid(), 1, signal.SIGKILL)
        return load_runner(*arguments)

    pytest.MonkeyPatch().setattr(build_module, "load_runner", load_alone)
    return build_ranks(folder, hostfile)


def judge_ranked_trees(folder: Path, hostfile: Path, num_trees: int) -> Verdict:
    """Serve random conversation trees on ranks; judge every token by mlx-lm on one device."""
    runner, _ = build_ranks(folder, hostfile)
    model: Any = mlx_lm.utils.load_model(folder)[0]
    return judge_trees(model, runner, num_trees)


def judge_constrained_trees(folder: Path, hostfile: Path, kv_bits: int) -> Verdict:
    """Do what `judge_ranked_trees` does, with quantised KV and constraints; the judge quantises as well."""
    runner, _ = build_ranks(folder, hostfile, kv_bits)
    model: Any = mlx_lm.utils.load_model(folder)[0]
    paged, rng, verdict = probe(model, kv_bits), random.Random(kv_bits), Verdict()
    verdict.tie = TIE if kv_bits == 16 else QUANTISED_TIE
    machine = Machine(runner, num_blocks=400)
    for _ in range(3):
        for sequence in grow_tree(machine, rng, 512, num_requests=4, constrained=0.5):
            verdict.judge(model, sequence, reference_caches(paged))
    return verdict


def judge_ranked_family(folder: Path, hostfile: Path) -> tuple[int, int, int]:
    """Serve prompts that share and branch; judge them by mlx-lm's own caches on one device.

    Returns the prompts' tokens that came from the cache, the different tokens answered, and the ties.
    """
    runner, served = build_ranks(folder, hostfile)
    machine = Machine(runner, served.num_blocks, num_state_slots=served.num_state_slots, window=served.window)
    judge = Judge(mlx_lm.utils.load_model(folder)[0])
    for sequence in serve(machine):
        judge.check(sequence)
    return machine.scheduler.counters.prefix_cache_hits, len(judge.seen), judge.ties


def followers(pid: int) -> list[int]:
    """Return the processes that the engine's process `pid` has started: the ranks behind it."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def kill_ranks(pid: int, rank: int, number: signal.Signals) -> None:
    """Send a signal to rank 0 or 1 of those that `pid` leads."""
    os.kill(pid if rank == 0 else followers(pid)[0], number)
