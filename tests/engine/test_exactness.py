"""The promise everything stands on: batched = alone and cached = cold, token for token.

Every greedy token is judged against one plain mlx-lm forward pass over its whole sequence: no paging, no
batch, no cache.
"""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

import pensieve.engine.demo
from pensieve.engine.attention.paged_model import probe
from pensieve.engine.reference_caches import reference_caches
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig

from ..budget import sampled, trials
from ..models import WINDOWED, write_model
from ..scheduler.residues import Residues
from .harness import QUANTISED_TIE, TIE, Machine, Verdict, grow_tree, mixing_runner

VOCAB = 512
DEMO = Path(pensieve.engine.demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def load(folder: Path, model_type: str) -> Any:
    """A random-weight model of a type, or the demo model, in float32."""
    if model_type != "demo":
        return mlx_lm.utils.load_model(write_model(folder / model_type, model_type))[0]
    model: Any = mlx_lm.utils.load_model(DEMO)[0]
    model.set_dtype(mx.float32)
    return model


@pytest.mark.parametrize(
    ("model_type", "on_host", "num_trees"),
    [
        ("llama", True, trials(8, 60, "PENSIEVE_TREES")),
        ("llama", False, trials(2, 30)),
        ("qwen3", True, trials(3, 30)),
        ("phi3", True, trials(3, 30)),
        ("phi3", False, trials(2, 15)),
        ("gemma3_text", True, trials(4, 40)),
        ("gemma3_text", False, trials(2, 15)),
        ("gpt_oss", True, trials(3, 30)),
        ("gpt_oss", False, trials(2, 10)),
        ("demo", True, trials(2, 30, "PENSIEVE_TREES")),
        ("demo", False, trials(1, 5)),
    ],
)
def test_every_token_of_random_conversation_trees_is_exact(
    folder: Path, model_type: str, on_host: bool, num_trees: int
) -> None:
    model, rng, verdict = load(folder, model_type), random.Random(num_trees), Verdict()
    machine = Machine(mixing_runner(probe(model, 16), 400, on_host), num_blocks=400)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, VOCAB, num_requests=4):
            verdict.judge(model, sequence)
    print(f"{model_type}: {num_trees} trees, {verdict}, {machine.scheduler.counters}")
    assert verdict.wrong == 0
    assert verdict.tokens > 15 * num_trees
    assert verdict.ties <= verdict.tokens / 1000
    assert len(verdict.seen) > verdict.tokens / 100, "a model that repeats itself proves nothing"
    assert machine.scheduler.counters.prefix_cache_hits > machine.scheduler.counters.prefix_cache_queries / 10


@pytest.mark.parametrize("on_host", [True, False])
def test_tokens_stay_exact_when_memory_is_short(folder: Path, on_host: bool) -> None:
    model, rng, verdict = load(folder, "llama"), random.Random(7), Verdict()
    machine = Machine(mixing_runner(probe(model, 16), 13, on_host), num_blocks=13, max_context=300)
    for _ in range(trials(5, 12)):
        prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 120))] for _ in range(6)]
        started = [machine.add(prompt, rng.randint(1, 60)) for prompt in prompts]
        machine.finish()
        for sequence in started:
            verdict.judge(model, sequence)
    assert verdict.wrong == 0
    assert machine.scheduler.counters.preemptions > 0
    assert machine.scheduler.counters.evictions > trials(5, 10)


@pytest.mark.parametrize("on_host", [True, False])
def test_penalised_tokens_are_exact_when_sequences_are_preempted(folder: Path, on_host: bool) -> None:
    """Without NumPy, steps are planned one ahead: the newest token is counted before it is known."""
    model, rng, verdict = load(folder, "llama"), random.Random(5), Verdict()
    machine = Machine(mixing_runner(probe(model, 16), 13, on_host), num_blocks=13, max_context=300)
    settings = [
        SamplingParams(repetition_penalty=1.5, frequency_penalty=0.3),
        SamplingParams(presence_penalty=0.5, logit_bias=((7, 1.5), (8, -100.0))),
        SamplingParams(frequency_penalty=-0.2),
        SamplingParams(),
    ]
    for _ in range(trials(2, 12)):
        for sampling in settings:
            machine.add([rng.randrange(VOCAB) for _ in range(rng.randint(1, 120))], 50, sampling)
        machine.finish()
    for sequence in machine.sequences:
        verdict.judge(model, sequence)
    print(f"{verdict}, {machine.scheduler.counters}")
    assert verdict.wrong == 0
    assert machine.scheduler.counters.preemptions > 0


@pytest.mark.parametrize("on_host", [True, False])
def test_penalised_samples_do_not_depend_on_the_batch_nor_change_others(folder: Path, on_host: bool) -> None:
    model, prompt = load(folder, "llama"), [5, 6, 7, 5]
    settings = [
        SamplingParams(temperature=1.1, repetition_penalty=1.3, frequency_penalty=0.4, seed=5),
        SamplingParams(temperature=1.1, seed=5),
        SamplingParams(presence_penalty=0.7, logit_bias=((3, 0.5), (300, -100.0))),
    ]

    def run(chosen: list[SamplingParams]) -> list[list[int]]:
        machine = Machine(mixing_runner(probe(model, 16), 100, on_host), num_blocks=100)
        for sampling in chosen:
            machine.add(prompt, 25, sampling)
        machine.finish()
        return [sequence.tokens for sequence in machine.sequences]

    together = run(settings)
    assert together == [run([sampling])[0] for sampling in settings]
    assert together[0] != together[1]


@pytest.mark.parametrize(("on_host", "num_trees"), [(True, trials(3, 15)), (False, trials(2, 15))])
def test_constrained_tokens_are_exact_among_free_ones(folder: Path, on_host: bool, num_trees: int) -> None:
    """Without NumPy, steps are planned one ahead: masks are unknown then, and samples are thrown away."""
    model, rng, verdict = load(folder, "llama"), random.Random(9), Verdict()
    machine = Machine(mixing_runner(probe(model, 16), 400, on_host), num_blocks=400)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, VOCAB, num_requests=6, constrained=0.5):
            verdict.judge(model, sequence)
    print(f"{verdict}, {machine.scheduler.counters}")
    assert verdict.wrong == 0
    assert verdict.tokens > 20 * num_trees
    assert (machine.scheduler.counters.refused_tokens > trials(5, 25)) == (not on_host)


@pytest.mark.parametrize("on_host", [True, False])
def test_seeded_samples_do_not_depend_on_the_batch(folder: Path, on_host: bool) -> None:
    model, rng = load(folder, "llama"), random.Random(3)
    settings = [
        SamplingParams(temperature=1.3, seed=1),
        SamplingParams(temperature=0.9, top_k=7, seed=2),
        SamplingParams(temperature=1.0, top_p=0.7, seed=3),
        SamplingParams(temperature=2.0, min_p=0.1, top_k=200, seed=2**63),
        SamplingParams(),
    ]
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 60))] for _ in settings]

    def run(together: bool) -> list[list[int]]:
        """Each request twice: free, and constrained."""
        runner = mixing_runner(probe(model, 16), 100, on_host)
        machine = Machine(runner, num_blocks=100, config=SchedulerConfig(16, 48))
        sequences = []
        for prompt, sampling in zip(prompts, settings, strict=True):
            for constraint in (None, Residues(0, vocab=VOCAB)):
                sequences.append(machine.add(prompt, 30, sampling, constraint))
                if not together:
                    machine.finish()
        machine.finish()
        return [sequence.tokens for sequence in sequences]

    together, alone = run(True), run(False)
    assert together == alone
    assert len({tuple(tokens[-30:]) for tokens in together}) == 2 * len(settings)
    step_ahead = Machine(mixing_runner(probe(model, 16), 100, not on_host), num_blocks=100)
    for prompt, sampling in zip(prompts, settings, strict=True):
        step_ahead.add(prompt, 30, sampling, Residues(0, vocab=VOCAB))
    step_ahead.finish()
    assert [sequence.tokens for sequence in step_ahead.sequences] == together[1::2]


def test_a_step_reads_scattered_blocks_as_well_as_one_slot_range(folder: Path) -> None:
    """Blocks freed here and there leave a new sequence in many short slot ranges."""
    model, rng, verdict = load(folder, "qwen3"), random.Random(5), Verdict()
    config = SchedulerConfig(max_batch=16, step_tokens=64)
    for on_host in (True, False):
        machine = Machine(mixing_runner(probe(model, 16), 48, on_host), num_blocks=48, config=config)
        small = [machine.add([rng.randrange(VOCAB) for _ in range(40)], 200) for _ in range(15)]
        for _ in range(60):
            machine.step()
        for sequence in small[::2]:
            machine.scheduler.end(sequence, "abort")
        machine.scheduler.reset_prefix_cache()
        large = machine.add([rng.randrange(VOCAB) for _ in range(600)], 20)
        while not large.block_table.blocks or large.num_prefill_tokens:
            machine.step()
        assert len(large.block_table.slot_ranges(600)) > 3
        machine.finish()
        verdict.judge(model, large)
    assert verdict.wrong == 0


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize(
    "model_type", sampled(sorted(set(WINDOWED) - {"plamo3"}), ["gemma3_text", "gpt_oss"])
)
def test_prompts_longer_than_a_window_continue_as_on_mlx_lms_own_caches(
    tmp_path: Path, model_type: str, on_host: bool
) -> None:
    """Its rotating caches forget what a window no longer sees; the pools keep it.

    Not plamo3, which in mlx-lm 0.32.2 sees a token more in a prompt than in an answer; here it always does.
    """
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path, model_type))[0]
    rng, config = random.Random(2), SchedulerConfig(max_batch=8, step_tokens=100)
    machine = Machine(mixing_runner(probe(model, 16), 200, on_host), num_blocks=200, config=config)
    head = [rng.randrange(VOCAB) for _ in range(150)]
    prompts = [head[:size] + [rng.randrange(VOCAB) for _ in range(20)] for size in (150, 140, 70, 5)]
    started = [machine.add(prompt, 60) for prompt in prompts]
    machine.finish()
    for sequence, prompt in zip(started, prompts, strict=True):
        caches = make_prompt_cache(model)
        logits = model(mx.array([prompt]), cache=caches)[0, -1]
        for token in sequence.tokens[len(prompt) :]:
            assert logits.max() - logits[token] <= TIE
            logits = model(mx.array([[token]]), cache=caches)[0, -1]


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize(
    ("model_type", "kv_bits"),
    [("llama", 8), ("llama", 4), ("gemma3_text", 8), ("gemma3_text", 4)],
)
def test_quantised_kv_is_as_exact(folder: Path, model_type: str, kv_bits: int, on_host: bool) -> None:
    """The judge quantises each token's KV as well, but knows neither pages nor batches nor slices.

    Not gpt_oss: where rounding moves a code to its neighbour, a random router may choose another expert. That
    happens to the judge as well, when it reads a prompt in slices.
    """
    model: Any = mlx_lm.utils.load_model(write_model(folder / model_type, model_type))[0]
    paged, rng = probe(model, kv_bits), random.Random(kv_bits)
    verdict = Verdict(tie=QUANTISED_TIE)
    machine = Machine(mixing_runner(paged, 400, on_host), num_blocks=400)
    num_trees = trials(2, 15) if on_host else trials(2, 6)
    for _ in range(num_trees):
        for sequence in grow_tree(machine, rng, VOCAB, num_requests=4):
            verdict.judge(model, sequence, reference_caches(paged))
    assert verdict.wrong == 0
    assert verdict.tokens > 15 * num_trees
    assert verdict.ties <= verdict.tokens / 200
    assert machine.scheduler.counters.prefix_cache_hits > machine.scheduler.counters.prefix_cache_queries / 10


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("kv_bits", [8, 4])
def test_quantised_kv_does_not_depend_on_slices_or_neighbours(
    folder: Path, kv_bits: int, on_host: bool
) -> None:
    """A slice reads its own tokens as they are stored, too, so that it does not matter where it was cut."""
    model: Any = mlx_lm.utils.load_model(write_model(folder / "gemma3_text", "gemma3_text"))[0]
    rng, paged = random.Random(1), probe(model, kv_bits)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(100, 250))] for _ in range(4)]

    def run(step_tokens: int, together: bool) -> list[list[int]]:
        config = SchedulerConfig(max_batch=4, step_tokens=step_tokens)
        machine = Machine(mixing_runner(paged, 100, on_host), num_blocks=100, config=config)
        sequences = []
        for prompt in prompts:
            sequences.append(machine.add(prompt, 20))
            if not together:
                machine.finish()
        machine.finish()
        return [sequence.tokens for sequence in sequences]

    assert run(33, True) == run(1000, True) == run(70, False)


@pytest.mark.slow
def test_long_prompts_over_many_query_heads_are_exact(tmp_path: Path) -> None:
    """Slices of 512 queries times four heads: attention works in tiles that begin inside a head."""
    model: Any = mlx_lm.utils.load_model(write_model(tmp_path, "llama", heads=8, kv_heads=2))[0]
    rng, verdict = random.Random(11), Verdict()
    config = SchedulerConfig(max_batch=8, step_tokens=512)
    machine = Machine(mixing_runner(probe(model, 16), 400, True), num_blocks=400, config=config)
    for _ in range(2):
        prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(700, 2500))] for _ in range(3)]
        started = [machine.add(prompt, 8) for prompt in prompts]
        machine.finish()
        for sequence in started:
            verdict.judge(model, sequence)
    assert verdict.wrong == 0
