"""Who asks, and what of their KV goes first when memory runs short."""

import random
from dataclasses import replace
from typing import get_args

import pytest

from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.scheduler.learned_gaps import FEWEST, LearnedGaps
from pensieve.scheduler.origin import Origin, RequestClass
from pensieve.scheduler.sequence import Request, Sequence
from pensieve.scheduler.sessions import IDLE_S, MAX_SESSIONS, TURN_GAP_S

from ..budget import trials
from .driver import Driver, prompt_of, request
from .oracle import spell

HEAD = prompt_of(1, 4 * BLOCK_SIZE)
KINDS: list[RequestClass | None] = [*get_args(RequestClass), None]


class Clients:
    """Clients of a scheduler, and the clock that it is told."""

    def __init__(self, num_blocks: int = 100, num_state_slots: int = 0) -> None:
        self.driver = Driver(num_blocks, num_state_slots=num_state_slots)
        self.scheduler = self.driver.scheduler
        self.now_s = 0.0

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.scheduler.sessions.tell_time(self.now_s)

    def add(self, prompt: list[int], origin: Origin, max_tokens: int = 4) -> Sequence:
        marks = (len(HEAD),) if prompt[: len(HEAD)] == HEAD else ()
        plain = request(prompt, max_tokens)
        asked = Request(prompt, plain.sampling, max_tokens, origin=origin, checkpoints=marks)
        return self.scheduler.add(asked)

    def ask(self, prompt: list[int], origin: Origin, calls: tuple[str, ...] | None = ()) -> list[int]:
        """Ask and take the whole answer; return prompt and answer."""
        self.wait(1)
        sequence = self.add(prompt, origin)
        self.driver.finish()
        self.scheduler.sessions.answered(sequence, calls)
        return sequence.tokens

    def evict(self, count: int) -> None:
        assert self.scheduler.kv_cache.tree.evict(count) == count

    def num_found(self, tokens: list[int]) -> int:
        """Blocks of `tokens` that are cached. What looks does not count as a use."""
        node, found = self.scheduler.kv_cache.tree.match([], None).node, 0
        for start in range(0, len(tokens), BLOCK_SIZE):
            child = node.children.get(tuple(tokens[start : start + BLOCK_SIZE]))
            if child is None:
                break
            node, found = child, found + 1
        return found


def origin(session: str, kind: RequestClass | None = "main", agent: str = "") -> Origin:
    return Origin(b"key", session, agent, request_class=kind)


def own_prompt(number: int, num_blocks: int = 6) -> list[int]:
    return HEAD + prompt_of(number, num_blocks * BLOCK_SIZE)


def test_a_session_whose_tools_run_is_kept_longer_than_one_that_waits_for_its_user() -> None:
    clients = Clients()
    busy = clients.ask(own_prompt(2), origin("busy"), ("Bash",))
    idle = clients.ask(own_prompt(3), origin("idle"))
    clients.evict(6)
    assert (clients.num_found(busy), clients.num_found(idle)) == (10, 4)


def test_a_tool_gap_that_lasts_far_longer_than_tools_do_protects_no_more() -> None:
    clients = Clients()
    busy = clients.ask(own_prompt(2), origin("busy"), ("Bash",))
    clients.wait(TURN_GAP_S)
    idle = clients.ask(own_prompt(3), origin("idle"))
    clients.evict(6)
    assert (clients.num_found(busy), clients.num_found(idle)) == (4, 10)


def test_whoever_stops_a_subagent_goes_on_with_the_agent_above_and_may_go_on_with_it() -> None:
    clients = Clients()
    main = clients.ask(own_prompt(2), origin("one"), ("Task",))
    other = clients.ask(own_prompt(3), origin("other"))
    clients.wait(TURN_GAP_S / 2)
    broken = clients.ask(own_prompt(4), replace(origin("one", "subagent", "helper"), parent=""), None)
    ended = clients.ask(own_prompt(5), origin("one", "subagent", "second"))
    found = []
    for _ in range(4):
        clients.evict(6)
        found.append([clients.num_found(one) for one in (ended, other, broken, main)])
    assert found == [[4, 10, 10, 10], [4, 4, 10, 10], [4, 4, 4, 10], [4, 4, 4, 4]]


def test_the_time_until_a_broken_answer_is_asked_for_again_is_not_learned() -> None:
    clients = Clients()
    for _ in range(FEWEST + 1):
        clients.ask(own_prompt(2), origin("one"), None)
    assert clients.scheduler.sessions._gaps.expected([("turn",)], -1.0) == -1.0


def test_how_long_tools_take_is_learned_by_their_names() -> None:
    clients = Clients(num_blocks=200)
    slow = own_prompt(2)
    for _ in range(FEWEST + 1):
        slow = clients.ask([*slow, 1], origin("slow"), ("Build",))
        clients.wait(300)
        slow = clients.ask([*slow, 1], origin("slow"), ("Read",))
    quick = clients.ask(own_prompt(3), origin("quick"), ("Read",))
    slow = clients.ask([*slow, 1], origin("slow"), ("Build",))
    clients.evict(6)
    assert (clients.num_found(slow), clients.num_found(quick)) == (len(slow) // BLOCK_SIZE - 6, 10)


def test_durations_that_the_client_names_are_learned_but_not_beyond_the_gap_that_was_seen() -> None:
    clients = Clients()
    for seconds in (2.0, 2.0, 1e9):
        prompt = own_prompt(2)
        clients.ask(prompt, origin("one"), ("Bash", "Read"))
        clients.wait(10)
        times = (("Bash", seconds), ("Read", 0.1), ("Other", 5.0))
        clients.ask(prompt, Origin(b"key", "one", request_class="main", tool_times_s=times))
    gaps = clients.scheduler.sessions._gaps
    assert gaps.expected([("tool", "Bash")], 0.0) == 2.0
    assert gaps.expected([("tool", "Other")], -1.0) == -1.0


def test_the_gaps_of_a_kind_are_known_by_their_median_once_there_are_enough() -> None:
    gaps = LearnedGaps()
    for seconds in (1.0, 2.0):
        gaps.add([("a", "b")], seconds)
    assert gaps.expected([("a", "b"), ("b",)], 7.0) == 7.0
    gaps.add([("a", "b"), ("b",)], 9999.0)
    assert gaps.expected([("a", "b"), ("b",)], 7.0) == 2.0
    for number in range(5000):
        gaps.add([(str(number),)], 1.0)
    assert len(gaps._gaps) < 5000


@pytest.mark.parametrize("kind", ["auxiliary", "compaction"])
def test_only_the_tail_of_a_side_request_goes_first(kind: RequestClass) -> None:
    clients = Clients()
    main = clients.ask(own_prompt(2), origin("one"), ("Bash",))
    clients.wait(1000)
    side = clients.ask(main + prompt_of(9, 3 * BLOCK_SIZE), origin("one", "auxiliary"))
    assert clients.num_found(side) == 13
    clients.evict(3)
    assert (clients.num_found(side), clients.num_found(main)) == (10, 10)


def test_what_an_agent_has_left_behind_goes_first_and_what_it_goes_on_with_stays() -> None:
    clients = Clients()
    before = clients.ask(own_prompt(2), origin("one"))
    other = clients.ask(own_prompt(3), origin("two"), ("Bash",))
    clients.ask(before + [1] * 40, origin("one", "compaction"))
    after = clients.ask(own_prompt(4), origin("one"), ("Bash",))
    clients.evict(7)  # six blocks of its own, and that of the summary
    assert [clients.num_found(tokens) for tokens in (before, other, after)] == [4, 10, 10]


def test_a_subagent_that_has_ended_leaves_its_head_to_the_next_one() -> None:
    clients = Clients()
    done = clients.ask(own_prompt(2), origin("one", "subagent", "a"))
    main = clients.ask(prompt_of(8, 6 * BLOCK_SIZE), origin("one"))
    clients.evict(6)
    assert (clients.num_found(done), clients.num_found(main)) == (4, 6)


def test_without_headers_a_conversation_is_known_by_what_it_goes_on_with() -> None:
    clients, nobody = Clients(num_blocks=200), Origin(b"key")
    one = clients.ask(own_prompt(2), nobody)
    other = clients.ask(own_prompt(3), nobody)
    one = clients.ask([*one, *prompt_of(4, 40)], nobody, ("Bash",))
    other = clients.ask([*other, *prompt_of(5, 40)], nobody)
    assert len(clients.scheduler.sessions) == 1
    num_other = clients.num_found(other)
    clients.evict(num_other - 4)
    assert (clients.num_found(one), clients.num_found(other)) == (num_other, 4)


def test_sessions_are_bounded_and_forgotten_when_idle() -> None:
    clients = Clients()
    for number in range(MAX_SESSIONS + 50):
        sequence = clients.add([number], origin(str(number)))
        clients.scheduler.end(sequence, "abort")
    assert len(clients.scheduler.sessions) == MAX_SESSIONS
    clients.wait(IDLE_S + 1)
    for _ in range(MAX_SESSIONS + 1):
        clients.scheduler.end(clients.add([1], origin("new")), "abort")
    assert len(clients.scheduler.sessions) == 1


@pytest.mark.parametrize("num_state_slots", [0, 30])
def test_whatever_sessions_do_nothing_is_pinned_and_the_shared_head_goes_last(num_state_slots: int) -> None:
    """Random sessions, agents, kinds, cancellations and gaps, with memory for a few of them only."""
    for seed in range(trials(6, 60)):
        rng = random.Random(seed)
        clients = Clients(rng.choice([30, 60]), num_state_slots)
        histories: dict[tuple[str, str], list[int]] = {}
        for _ in range(25):
            session, agent = str(rng.randrange(4)), rng.choice(["", "", "a", "b"])
            kind = rng.choice(KINDS)
            start = HEAD if rng.random() < 0.3 else histories.get((session, agent), HEAD)[:500]
            prompt = start + prompt_of(rng.randrange(9), rng.randint(1, 90))
            sequence = clients.add(prompt, origin(session, kind, agent))
            clients.wait(rng.choice([0.1, 5, 1000]))
            for _ in range(rng.choice([0, 3, 1000])):
                if clients.scheduler.has_work:
                    clients.driver.step()
            if rng.random() < 0.2:
                clients.scheduler.end(sequence, "abort")
            clients.driver.finish()
            clients.scheduler.sessions.answered(sequence, rng.choice([None, [], ["Bash"], ["Read", "Bash"]]))
            expected = spell(sequence.request.prompt, 4)
            assert sequence.tokens == expected[: len(sequence.tokens)]
            histories[session, agent] = sequence.tokens
        clients.ask(own_prompt(7), origin("0"))
        tree, allocator = clients.scheduler.kv_cache.tree, clients.scheduler.kv_cache.allocator
        assert allocator.num_held == 0
        tree.evict(tree.num_blocks - 4)
        assert clients.num_found(HEAD) == 4
        whole = clients.add(prompt_of(99, allocator.num_blocks * BLOCK_SIZE - 10), origin("new"))
        clients.driver.finish()
        assert whole.finish_reason == "length"
        tree.evict(allocator.num_blocks)
        assert (allocator.num_free, tree.num_blocks) == (allocator.num_blocks, 0)
