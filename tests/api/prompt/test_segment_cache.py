"""The cache of segments: what comes again is not tokenised again, and memory is bounded."""

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from pensieve.api.prompt.segment_cache import SegmentCache


class Encoder:
    """Stands for a tokenizer: a token a character. Counts how often each text came."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.texts += texts
        return [[ord(char) for char in text] for text in texts]


def ids(*texts: str) -> list[tuple[int, ...]]:
    return [tuple(ord(char) for char in text) for text in texts]


def test_a_text_that_came_before_is_not_tokenised_again() -> None:
    encoder = Encoder()
    cache = SegmentCache(encoder)
    assert cache.encode(["head", "one"]) == ids("head", "one")
    assert cache.encode(["head", "one", "two", "head"]) == ids("head", "one", "two", "head")
    assert cache.encode(["head", "edited", "two"]) == ids("head", "edited", "two")
    assert encoder.texts == ["head", "one", "two", "edited"]


def test_a_text_is_tokenised_anew_for_another_space() -> None:
    """The time would tell one API key what another one has sent."""
    encoder = Encoder()
    cache = SegmentCache(encoder)
    for space in (b"", b"alice", b"bob", b"alice"):
        assert cache.encode(["head"], space) == ids("head")
    assert encoder.texts == ["head"] * 3


def test_the_texts_used_last_are_kept() -> None:
    encoder = Encoder()
    cache = SegmentCache(encoder, max_bytes=5000)
    for turn in range(40):
        assert cache.encode(["head", f"turn {turn}" * 20]) == ids("head", f"turn {turn}" * 20)
        assert cache._num_bytes <= 5000
    assert encoder.texts.count("head") == 1
    cache.encode(["turn 0" * 20])
    assert encoder.texts.count("turn 0" * 20) == 2
    big = "x" * 10_000
    assert cache.encode([big, "small"]) == ids(big, "small")  # larger than the cache
    assert cache._num_bytes <= 5000


def test_prompts_share_the_objects_of_their_ids() -> None:
    cache = SegmentCache(lambda texts: [[int(f"{1000 + len(text)}") for text in texts]])
    ((first,),), ((second,),) = cache.encode(["a"]), cache.encode(["b"])
    assert first is second


def test_two_threads_that_need_a_text_tokenise_it_once() -> None:
    encoder, entered, may_go = Encoder(), threading.Event(), threading.Event()

    def encode(texts: list[str]) -> list[list[int]]:
        if "head" in texts:
            entered.set()
            assert may_go.wait(10)
        return encoder(texts)

    cache = SegmentCache(encode)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.encode, ["head", "one"])
        assert entered.wait(10)
        second = threads.submit(cache.encode, ["two", "head"])
        while "two" not in encoder.texts:
            pass
        may_go.set()
        assert first.result(10) == ids("head", "one")
        assert second.result(10) == ids("two", "head")
    assert sorted(encoder.texts) == ["head", "one", "two"]


def test_a_failure_is_not_kept() -> None:
    encoder, failures = Encoder(), [ValueError("no")]

    def encode(texts: list[str]) -> list[list[int]]:
        if failures:
            raise failures.pop()
        return encoder(texts)

    cache = SegmentCache(encode)
    with pytest.raises(ValueError, match="no"):
        cache.encode(["a", "b"])
    assert cache.encode(["a", "b"]) == ids("a", "b")


def test_a_failure_of_one_prompt_is_none_of_another_that_waits_for_a_text_of_it() -> None:
    """Whoever waited for the shared head got the other prompt's exception."""
    encoder, entered, may_go = Encoder(), threading.Event(), threading.Event()

    def encode(texts: list[str]) -> list[list[int]]:
        if "bad" in texts:
            entered.set()
            assert may_go.wait(10)
            raise ValueError("bad")
        return encoder(texts)

    cache = SegmentCache(encode)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.encode, ["head", "bad"])
        assert entered.wait(10)
        second = threads.submit(cache.encode, ["good", "head"])
        while "good" not in encoder.texts:
            pass
        may_go.set()
        assert second.result(10) == ids("good", "head")
        with pytest.raises(ValueError, match="bad"):
            first.result(10)
    assert not cache._pending


def test_many_threads_get_the_ids_of_their_own_texts() -> None:
    cache = SegmentCache(Encoder(), max_bytes=20_000)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(200):
            texts = [f"text {random.randrange(60)}" * random.randrange(1, 4) for _ in range(8)]
            assert cache.encode(texts) == ids(*texts)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert not cache._pending
