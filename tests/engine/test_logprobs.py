"""Log-probabilities are those of a plain forward pass, for the rows that ask, and change nothing else."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest

from pensieve.engine.attention.paged_model import probe
from pensieve.engine.logprobs import compute_logprobs
from pensieve.engine.paged_caches import Capacity
from pensieve.engine.runner import Runner
from pensieve.engine.step import DecodeRow, SamplingParams, StepsDone
from pensieve.scheduler.sequence import Sequence

from .harness import Machine

NUM_BLOCKS = 32


def row(seq_id: int, logprobs: int | None, temperature: float = 0.0) -> DecodeRow:
    return DecodeRow(seq_id, 1, 5, ((0, 6),), SamplingParams(temperature=temperature, logprobs=logprobs))


def test_rows_that_ask_get_the_log_softmax_of_their_logits() -> None:
    logits = mx.random.normal((4, 50), key=mx.random.key(1))
    rows = [row(1, None), row(2, 3), row(3, 0, temperature=1.0), row(4, 20)]
    tokens = mx.array([5, 6, 7, 8])
    batch = compute_logprobs(logits, rows, tokens)
    assert batch is not None
    found = batch.read()
    assert sorted(found) == [2, 3, 4]
    plain = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    for place, (token, wanted) in {1: (6, 3), 2: (7, 0), 3: (8, 20)}.items():
        given = found[rows[place].seq_id]
        assert given.logprob == pytest.approx(plain[place][token], abs=1e-5)
        best = np.argsort(-plain[place])[:wanted].tolist()
        assert [token for token, _ in given.top] == best
        assert [logprob for _, logprob in given.top] == pytest.approx(plain[place][best].tolist(), abs=1e-5)


def test_nothing_is_computed_for_rows_that_do_not_ask() -> None:
    assert compute_logprobs(mx.zeros((1, 9)), [row(1, None)], mx.array([1])) is None


def test_a_vocabulary_smaller_than_what_is_asked_for() -> None:
    batch = compute_logprobs(mx.array([[0.0, 1.0, 2.0]]), [row(1, 20)], mx.array([0]))
    assert batch is not None
    assert [token for token, _ in batch.read()[1].top] == [2, 1, 0]


class Recorder(Machine):
    """Keeps what the steps report."""

    def take(self, done: StepsDone) -> None:
        for result in done.results:
            for seq_id, found in result.logprobs.items():
                self.found.setdefault(seq_id, []).append(found)
        super().take(done)

    def run(self) -> None:
        self.found: dict[int, list[Any]] = {}
        self.finish()


@pytest.mark.parametrize("on_host", [True, False])
def test_scores_through_scheduler_and_engine_are_those_of_a_plain_forward_pass(
    tiny_model: Path, on_host: bool
) -> None:
    """Also one step ahead, where tokens stay on the device; neighbours' tokens are what they are alone."""
    model = mlx_lm.utils.load_model(tiny_model)[0]
    prompts = [[7, 8, 9, *range(20, 60)], [3, 4, 5], [9] * 70]

    def run(*logprobs: int | None) -> tuple[Recorder, list[Sequence]]:
        machine = Recorder(Runner(probe(model, 16), Capacity(NUM_BLOCKS), on_host=on_host), NUM_BLOCKS)
        settings = [SamplingParams(temperature=0.8, seed=i, logprobs=n) for i, n in enumerate(logprobs)]
        added = [machine.add(prompt, 9, sampling) for prompt, sampling in zip(prompts, settings, strict=True)]
        machine.run()
        return machine, added

    machine, sequences = run(5, None, 0)
    _, without = run(None, None, None)
    assert [s.tokens for s in sequences] == [s.tokens for s in without]
    assert sorted(machine.found) == [sequences[0].seq_id, sequences[2].seq_id]
    for sequence in (sequences[0], sequences[2]):
        logits = mlx_lm.utils.load_model(tiny_model)[0](mx.array([sequence.tokens[:-1]]))[0].astype(
            mx.float32
        )
        num_prompt_tokens = sequence.num_prompt_tokens
        plain = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[num_prompt_tokens - 1 :]
        sampled = sequence.tokens[num_prompt_tokens:]
        found = machine.found[sequence.seq_id]
        assert [s.logprob for s in found] == pytest.approx(
            [plain[i][t] for i, t in enumerate(sampled)], abs=2e-3
        )
        assert all(len(s.top) == (sequence.request.sampling.logprobs or 0) for s in found)
        for i, given in enumerate(found):
            for token, logprob in given.top:
                assert logprob == pytest.approx(plain[i][token], abs=2e-3)
