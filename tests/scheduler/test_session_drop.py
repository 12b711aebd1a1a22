"""What goes and what stays when somebody drops a session."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.cache.disk.index import DiskIndex
from pensieve.engine.step import SamplingParams
from pensieve.scheduler import disk_saves
from pensieve.scheduler.origin import Account, Origin
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request
from pensieve.scheduler.session_drop import DroppedSession, drop_session

from ..budget import trials
from .disk_oracle import DiskDriver
from .driver import prompt_of, request
from .oracle import spell
from .test_sessions import HEAD, Clients, origin, own_prompt


def drop(scheduler: Scheduler, name: str) -> DroppedSession:
    (session,) = scheduler.sessions.find(name)
    return drop_session(scheduler, session)


def test_a_dropped_session_frees_what_is_its_own_alone() -> None:
    clients = Clients()
    one = clients.ask(own_prompt(2), origin("one"))
    two = clients.ask(own_prompt(3), origin("two"))
    assert drop(clients.scheduler, "one") == DroppedSession("one", 1, 6 * BLOCK_SIZE, 0)
    assert (clients.num_found(one), clients.num_found(two)) == (4, 10)
    assert [session.key[1] for session in clients.scheduler.sessions] == ["two"]


def test_what_running_requests_hold_stays_until_they_have_ended() -> None:
    clients = Clients()
    one = clients.ask(own_prompt(2), origin("one"))
    sequence = clients.add([*one, *prompt_of(4, 2 * BLOCK_SIZE)], origin("one"))
    clients.driver.step()
    assert drop(clients.scheduler, "one") == DroppedSession("one", 1, 0, 1)
    clients.driver.finish()
    assert sequence.tokens == spell(sequence.request.prompt, 4)
    assert drop(clients.scheduler, "one").num_tokens == 8 * BLOCK_SIZE
    assert not len(clients.scheduler.sessions)


def test_the_agents_and_the_branches_of_a_session_go_with_it() -> None:
    clients = Clients()
    other = clients.ask(HEAD, origin("other"))
    for seed, agent in enumerate(("", "a", "b")):
        clients.ask(own_prompt(5 + seed), origin("one", "subagent" if agent else "main", agent))
    for seed in (8, 9):  # conversations of a client that names no agents
        clients.ask(own_prompt(seed), origin("one", None))
    drop(clients.scheduler, "one")
    assert clients.scheduler.kv_cache.allocator.num_cached == clients.num_found(other) == 4


def test_a_session_is_found_by_its_name_its_number_or_the_beginning_of_its_name() -> None:
    clients = Clients()
    for number, name in enumerate(("5f2c1a", "5f2d", "5f2c")):
        clients.scheduler.add(request(prompt_of(number, 9)))
        clients.ask(prompt_of(number, 9), origin(name))
    find = clients.scheduler.sessions.find

    def names(name: str, account: str | None = None) -> set[str]:
        return {session.key[1] for session in find(name, account)}

    assert names("5f2c") == names("4") == {"5f2c"}
    assert names("5f2") == {"5f2c1a", "5f2d", "5f2c"}
    assert names("5f2d") == names("5f2d", "") == {"5f2d"}
    assert names("") == {""}  # that of the requests that name none
    assert names("5e") == names("5f2d", "alice") == set()


def test_a_dropped_session_s_files_go_but_for_one_that_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", BLOCK_SIZE)
    monkeypatch.setattr(DiskIndex, "is_worth_restoring", lambda *_: True)
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        for prompt, name in (
            (HEAD, "other"),
            (own_prompt(2), "one"),
            (own_prompt(3), "two"),
            ([*own_prompt(3), *prompt_of(4, 4 * BLOCK_SIZE)], "two"),
        ):
            asked = Request(prompt, SamplingParams(), 4, origin=origin(name))
            driver.scheduler.add(asked)
            driver.finish()
        drop(driver.scheduler, "one")
        driver.runner.jobs.finish()
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        found = []
        for seed in (2, 3):
            sequence = driver.scheduler.add(request([*own_prompt(seed), 1], 4))
            driver.finish()
            found.append((sequence.num_cached_tokens or 0) // BLOCK_SIZE)
    assert found == [4, 10]


def test_a_dropped_session_s_files_go_from_the_space_in_which_it_asks_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are read anew may let a session share what is cached, or no longer."""
    monkeypatch.setattr(disk_saves, "MIN_TOKENS", BLOCK_SIZE)
    monkeypatch.setattr(DiskIndex, "is_worth_restoring", lambda *_: True)
    later = replace(origin("one"), account=Account(space=b"own"))
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        for seed, asking in ((2, origin("one")), (3, later)):
            driver.scheduler.add(Request(own_prompt(seed), SamplingParams(), 4, origin=asking))
            driver.finish()
        drop(driver.scheduler, "one")
        driver.runner.jobs.finish()
    with DiskDriver(tmp_path, random.Random(1)) as driver:
        again = Request([*own_prompt(3), 1], SamplingParams(), 4, origin=later)
        sequence = driver.scheduler.add(again)
        driver.finish()
        assert sequence.num_cached_tokens == 0


def test_whatever_is_dropped_meanwhile_every_answer_is_its_own() -> None:
    for case in range(trials(10, 100)):
        rng = random.Random(case)
        clients = Clients(60, num_state_slots=rng.choice((0, 12)))
        sequences = []
        for _ in range(12):
            asked = Origin(b"key", rng.choice("abc"), rng.choice(("", "x")), account=Account())
            sequences.append(clients.add(own_prompt(rng.randrange(4), rng.randrange(1, 6)), asked))
            for _ in range(rng.randrange(4)):
                clients.driver.step()
            if rng.random() < 0.5:
                for session in clients.scheduler.sessions.find(rng.choice("abc")):
                    drop_session(clients.scheduler, session)
        clients.driver.finish()
        for sequence in sequences:
            assert sequence.tokens == spell(sequence.request.prompt, 4)
        for session in list(clients.scheduler.sessions):
            drop_session(clients.scheduler, session)
        assert not len(clients.scheduler.sessions)
