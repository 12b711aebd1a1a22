"""Shares of the device by session: properties of random schedules, on the clock of a scripted engine."""

import random
from collections.abc import Iterable

import pytest

from pensieve.engine.step import SamplingParams
from pensieve.scheduler.fair_share import FairShare
from pensieve.scheduler.fair_shares import (
    AGING_S,
    BRIEF,
    BURST_S,
    CREDIT_S,
    DEBT_S,
    Beneficiaries,
    FairShares,
)
from pensieve.scheduler.origin import Account, Origin, RequestClass
from pensieve.scheduler.sequence import Request, Sequence
from pensieve.scheduler.session_usage import SessionUsage

from ..budget import trials
from .driver import Driver, prompt_of, request
from .fair_play import CLASSES, FairPlay, Worker
from .oracle import spell


def session(key: str = "", device_ns: int = 0) -> FairShare:
    return FairShare(Account(key), SessionUsage(0.0, device_ns=device_ns))


def asking(shares: FairShares, share: FairShare, request_class: RequestClass = "main") -> Sequence:
    """A request that has just arrived."""
    origin = Origin(request_class=request_class, account=share.account)
    sequence = Sequence(1, Request([1], SamplingParams(), 1, origin=origin), 2)
    shares.begin(sequence, share)
    return sequence


def charge(shares: FairShares, sequence: Sequence, seconds: float) -> None:
    shares.charge([(sequence,)], [round(seconds * 1e9)])


def drawn_play(rng: random.Random) -> FairPlay:
    """Sessions that always want more than they get: long and short prompts and answers, on any device.

    Each has requests for a whole batch. An answer takes at most 3 s of the device, since what runs is not
    broken off to make shares equal.
    """
    num_sessions = rng.randint(2, 5)
    max_batch = rng.randint(num_sessions, 8)
    has_keys, row_s = rng.random() < 0.3, 10 ** rng.uniform(-1.7, -0.7)
    workers = [
        Worker(
            name=str(i),
            backlog=max_batch + rng.randint(0, 3),
            longest_prompt=int(10 ** rng.uniform(1, 3.3)),
            longest_answer=int(min(10 ** rng.uniform(0.3, 2), 3 / row_s)),
            share=rng.choice([1.0, 2.0, 3.0]) if has_keys else 1.0,
            has_key=has_keys,
            classes=CLASSES,
        )
        for i in range(num_sessions)
    ]
    return FairPlay(
        workers,
        rng,
        max_batch=max_batch,
        lag=rng.randint(0, 1),
        row_s=row_s,
        token_s=10 ** rng.uniform(-3.7, -2.7),
        pass_s=10 ** rng.uniform(-1, -0.3),
    )


@pytest.mark.parametrize("seed", range(trials(4, 20, "PENSIEVE_FAIR_TRIALS")))
def test_sessions_that_always_want_more_have_the_device_by_their_shares(seed: int) -> None:
    play = drawn_play(random.Random(seed))
    total = sum(worker.share for worker in play.workers)
    play.run(10)
    before = play.device_s()
    play.run(10 + 100 * total / min(worker.share for worker in play.workers))
    had = play.device_s() - before
    for worker in play.workers:
        due = worker.share / total
        assert 0.9 * due < had[worker.name] / had.total() < 1.1 * due
    play.finish()
    least_weight = min(worker.share for worker in play.workers) * len(play.workers) / total
    assert play.longest_pause_s < len(play.workers) * (CREDIT_S + DEBT_S / least_weight)
    assert play.longest_lead_s <= 2 * AGING_S + 1


@pytest.mark.parametrize("per_name", [1, 3])
def test_sessions_that_end_soon_take_no_more_than_as_many_that_last(per_name: int) -> None:
    """Each began at the level while the one before still counted; what lasts got 3.3 % of 4.8 %."""
    others = [Worker(str(i), 1, 600, 60, per_name=per_name) for i in range(12)]
    workers = [Worker("lasting", 1, 600, 60), *others]
    play = FairPlay(workers, random.Random(1), max_batch=6)
    play.run(20)
    before = play.device_s()
    play.run(220)
    had = play.device_s() - before
    assert 0.9 < had["lasting"] / had.total() * len(workers) < 1.1


def test_a_new_session_begins_at_the_fair_level_and_an_idle_one_gains_a_bounded_credit() -> None:
    shares, busy = FairShares(), session()
    work = asking(shares, busy)
    charge(shares, work, 500)
    new, old = session(), session(device_ns=1)
    for one in (new, old):
        asking(shares, one)
    assert shares.lead_s(new) - shares.lead_s(old) == pytest.approx(CREDIT_S)
    assert shares.lead_s(new) == pytest.approx(shares.lead_s(busy))


def test_a_session_between_two_turns_keeps_its_lead_when_a_new_one_of_its_owner_begins() -> None:
    """It was absolved: each new session took the lead of a living one over."""
    shares = FairShares()
    rival, lasting, new = (session() for _ in range(3))
    asking(shares, rival)
    turn = asking(shares, lasting)
    charge(shares, turn, 4)
    lead_s = shares.lead_s(lasting)
    shares.end(turn)
    asking(shares, new)
    assert shares.lead_s(new) == pytest.approx(lead_s)
    asking(shares, lasting)
    assert shares.lead_s(lasting) == pytest.approx(shares.lead_s(new))
    assert shares.lead_s(lasting) - shares.lead_s(rival) == pytest.approx(2 * lead_s)


def test_a_session_that_has_lasted_passes_no_lead_on() -> None:
    """Where many people send one key, a newcomer is somebody else."""
    shares = FairShares()
    asking(shares, session())
    lasting, new = session(), session()
    for _ in range(BRIEF + 1):
        turn = asking(shares, lasting)
        charge(shares, turn, 1)
        shares.end(turn)
    asking(shares, new)
    assert shares.lead_s(lasting) > 0
    assert shares.lead_s(new) == pytest.approx(0)


def test_what_nobody_else_wanted_is_no_debt() -> None:
    """A session with one slow answer never has its share; the others' leads must not grow for hours."""
    shares = FairShares()
    slow, busy = (asking(shares, session()) for _ in range(2))
    for _ in range(1000):
        charge(shares, busy, 1)
        charge(shares, slow, 0.1)
    assert -CREDIT_S <= shares.lead_s(slow.fair_share) < shares.lead_s(busy.fair_share) <= DEBT_S


def test_keys_with_shares_divide_theirs_among_their_sessions() -> None:
    shares = FairShares()
    asked = [asking(shares, session(key)) for key in ("one", "one", "other")]
    for sequence, seconds in zip(asked, (0.1, 0.1, 0.2), strict=True):
        charge(shares, sequence, seconds)
    assert [shares.lead_s(one.fair_share) for one in asked] == [pytest.approx(0)] * 3


def test_side_requests_come_first_up_to_a_bound_and_background_work_last_until_it_has_waited() -> None:
    shares, own, other = FairShares(), session(), session()
    background, subagent, main, side = (
        asking(shares, own, name) for name in ("workflow", "subagent", "main", "auxiliary")
    )
    rival = asking(shares, other)
    assert shares.in_order([background, subagent, main, side]) == [side, main, subagent, background]
    charge(shares, main, 1)
    assert shares.in_order([rival, side])[0] is side
    charge(shares, main, 10)
    assert shares.in_order([rival, side])[0] is rival
    for _ in range(int(2 * AGING_S)):
        charge(shares, main, 0.5)
        charge(shares, rival, 0.5)
    late = asking(shares, own)
    assert shares.in_order([background, late]) == [background, late]


def test_a_prompt_of_a_session_that_leads_leaves_steps_to_the_rows_of_others() -> None:
    shares = FairShares()
    prompt, answer = (asking(shares, session()) for _ in range(2))
    alone: Beneficiaries = {prompt: (prompt,)}
    assert shares.slice_groups(alone, {answer.fair_share}) == [[prompt]]
    charge(shares, prompt, 2 * BURST_S + 0.1)
    assert shares.slice_groups(alone, {answer.fair_share}) == []
    assert shares.slice_groups(alone, {prompt.fair_share}) == [[prompt]]
    assert shares.slice_groups(alone, set()) == [[prompt]]
    assert shares.slice_groups({prompt: (prompt, answer)}, {answer.fair_share}) == [[prompt]]


def of_session(name: str, prompt: list[int], max_tokens: int = 4) -> Request:
    return Request(prompt, SamplingParams(), max_tokens, origin=Origin(session=name))


def test_sequences_that_share_a_prefix_share_its_cost() -> None:
    driver = Driver(num_blocks=256)
    shared = prompt_of(1, 640)
    for name in "abc":
        driver.scheduler.add(of_session(name, [*shared, ord(name)], max_tokens=1))
    sequences = list(driver.scheduler.queues.waiting)
    driver.finish()
    had_ns = [sequence.fair_share.usage.device_ns for sequence in sequences]
    assert max(had_ns) < 1.3 * min(had_ns)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_full_batch_of_one_session_lets_another_one_in(lag: int) -> None:
    """Though none of its answers ends; the one that makes room loses nothing."""
    driver = Driver(num_blocks=4000, lag=lag, max_batch=4)
    rows = [driver.scheduler.add(of_session("busy", prompt_of(i, 40), 200)) for i in range(4)]
    for _ in range(10):
        driver.step()
    other = driver.scheduler.add(of_session("other", prompt_of(9, 40)))
    for _ in range(20):
        charge(driver.scheduler.queues.shares, rows[0], 1)
        driver.step()
    assert other.finish_reason == "length"
    assert driver.scheduler.counters.preemptions == 1
    driver.finish()
    assert [row.tokens for row in rows] == [spell(prompt_of(i, 40), 200) for i in range(4)]


def test_a_side_request_gets_a_place_in_a_full_batch_at_once() -> None:
    driver = Driver(max_batch=2)
    rows = [driver.scheduler.add(request(prompt_of(i, 40), 50)) for i in range(2)]
    driver.step()
    origin = Origin(request_class="auxiliary")
    side = driver.scheduler.add(Request(prompt_of(9, 20), SamplingParams(), 2, origin=origin))
    for _ in range(4):
        driver.step()
    assert side.finish_reason == "length"
    driver.finish()
    assert [row.tokens for row in rows] == [spell(prompt_of(i, 40), 50) for i in range(2)]


def test_a_place_in_the_queue_follows_the_order_in_which_requests_will_begin() -> None:
    driver = Driver(num_blocks=256, max_batch=1)
    runs = driver.scheduler.add(of_session("busy", prompt_of(1, 40), 50))
    driver.step()
    crowd = [driver.scheduler.add(of_session("busy", prompt_of(i, 40))) for i in range(2, 5)]
    other = driver.scheduler.add(of_session("other", prompt_of(9, 40)))
    assert [driver.scheduler.num_ahead(one) for one in (*crowd, other)] == [0, 1, 2, 3]
    charge(driver.scheduler.queues.shares, runs, 3)
    assert [driver.scheduler.num_ahead(one) for one in (*crowd, other)] == [1, 2, 3, 0]
    driver.finish()


def test_memory_is_taken_from_the_session_that_has_had_most() -> None:
    driver = Driver(num_blocks=10, max_batch=4)
    greedy = driver.scheduler.add(of_session("greedy", prompt_of(1, 40), 150))
    driver.step()
    others = [driver.scheduler.add(of_session(name, prompt_of(2, 40), 150)) for name in "ab"]
    charge(driver.scheduler.queues.shares, greedy, 5)
    preempted = set[int]()
    while driver.scheduler.has_work:
        driver.step()
        preempted |= {one.seq_id for one in driver.scheduler.queues.waiting if one.first_kv_step}
    assert greedy.seq_id in preempted
    assert greedy.tokens == spell(prompt_of(1, 40), 150)
    assert [one.tokens for one in others] == [spell(prompt_of(2, 40), 150)] * 2


def test_one_session_without_classes_has_the_order_of_arrival() -> None:
    driver = Driver(num_blocks=400, max_batch=2)
    added = [driver.scheduler.add(request(prompt_of(i, 30 + 7 * i), max_tokens=3)) for i in range(8)]
    started: list[Sequence] = []
    while driver.scheduler.has_work:
        driver.step()
        started += new_ones(driver.scheduler.running, started)
    assert started == added


def new_ones(running: Iterable[Sequence], known: list[Sequence]) -> list[Sequence]:
    return [sequence for sequence in running if sequence not in known]
