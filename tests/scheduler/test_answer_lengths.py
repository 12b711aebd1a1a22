"""Who starts leaves room for how long answers become, so that few have to make room again."""

import random
from dataclasses import replace

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.served_model import WindowPool
from pensieve.scheduler import answer_lengths
from pensieve.scheduler.answer_lengths import MIN_KNOWN, AnswerLengths
from pensieve.scheduler.origin import Origin
from pensieve.scheduler.sequence import Sequence

from ..budget import sampled, trials
from .driver import Driver, prompt_of, request
from .oracle import spell

STOP = set(range(12))  # of a thousand tokens, so that answers have 80 tokens on average
MAX_TOKENS = 250

# State slots and windows of models of three kinds.
KINDS = [(0, None), (60, None), (0, WindowPool(64, num_blocks=200, slice_tokens=64, max_running=16))]


def sequence(num_sampled: int, max_tokens: int = MAX_TOKENS, origin: Origin = Origin()) -> Sequence:  # noqa: B008
    made = Sequence(0, replace(request([1, 2, 3], max_tokens), origin=origin), 3 + max_tokens)
    made.tokens += [0] * num_sampled
    return made


def test_growth_is_that_of_the_answers_that_became_longer() -> None:
    lengths = AnswerLengths()
    for count in range(1, MIN_KNOWN):
        lengths.learn(sequence(10 * count))
    assert lengths.growth(sequence(0)) == 0  # too few are known
    lengths.learn(sequence(200))
    assert lengths.growth(sequence(0)) == 70  # 80 % of the eight are no longer than that
    assert lengths.growth(sequence(65)) == 200 - 65
    assert lengths.growth(sequence(65, max_tokens=100)) == 35
    assert lengths.growth(sequence(220)) == 30
    assert lengths.growth(sequence(201, max_tokens=900)) == BLOCK_SIZE
    assert lengths.growth(sequence(0, origin=Origin(agent="another"))) == 0


def run_crowd(rng: random.Random, num_slots: int = 0, window: WindowPool | None = None) -> Driver:
    """Let 16 sessions take turns, with KV for five; check every answer, and return the driver."""
    num_turns, lag = 3, rng.randint(0, 1)
    driver = Driver(5 * 24, lag, max_batch=16, num_state_slots=num_slots, window=window)
    scheduler, left = driver.scheduler, dict[int, Sequence]()

    def ask(number: int, prompt: list[int]) -> None:
        asked = request(prompt, MAX_TOKENS, STOP)
        left[number] = scheduler.add(replace(asked, origin=Origin(session=str(number))))

    for number in range(16):
        ask(number, prompt_of(rng.randrange(10**6), rng.randint(150, 350)))
    turns = dict.fromkeys(left, 1)
    for _ in range(100_000):
        driver.step()
        for number, asked in list(left.items()):
            if asked.finish_reason is None:
                continue
            prompt = asked.request.prompt
            assert asked.tokens == spell(prompt, len(asked.tokens) - len(prompt))
            assert asked.finish_reason in ("stop", "length")
            del left[number]
            if turns[number] < num_turns:
                turns[number] += 1
                ask(number, asked.tokens[-400:] + prompt_of(rng.randrange(10**6), 20))
        if not left:
            return driver
    raise AssertionError("some session waits for ever")


@pytest.mark.parametrize(
    ("num_slots", "window"), sampled(KINDS, KINDS[1:]), ids=["plain", "states", "windows"]
)
def test_sixteen_sessions_with_memory_for_five_all_finish_with_their_own_tokens(
    num_slots: int, window: WindowPool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every session's answers are those of an empty server, however often it has to make room."""
    num_preempted = {True: 0, False: 0}
    for seed in range(trials(1, 5)):
        for learns in num_preempted:
            monkeypatch.setattr(answer_lengths, "MIN_KNOWN", MIN_KNOWN if learns else 10**9)
            driver = run_crowd(random.Random(seed), num_slots, window)
            num_preempted[learns] += driver.scheduler.counters.preemptions
    assert num_preempted[True] < num_preempted[False] / 2
