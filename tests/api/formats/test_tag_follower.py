"""An answer split at its tags, as text and as bytes."""

from typing import AnyStr

from hypothesis import given
from hypothesis import strategies as st

from pensieve.api.formats.tag_follower import AnswerTags, Mode, TagFollower

TAGS = AnswerTags(["<call>"], "</call>", ("<think>", "</think>"), ("STOP", "ST"))
BYTES = AnswerTags([b"<call>"], b"</call>", (b"<think>", b"</think>"), (b"STOP", b"ST"))
PARTS = ["<call>", "</call>", "<think>", "</think>", "STOP", "ST", "<", "</", "think>", "a", " "]


def follow(tags: AnswerTags[AnyStr], chunks: list[AnyStr]) -> list[tuple[Mode, AnyStr]]:
    """List what each mode holds, with a call's end tag taken for its end."""
    empty = chunks[0][:0] if chunks else tags.stop_sequences[0][:0]
    follower, spans = TagFollower(tags, Mode.TEXT, empty), [(Mode.TEXT, empty)]

    def add(text: AnyStr) -> None:
        mode, before = spans[-1]
        spans[-1] = (mode, before + text)

    for chunk in chunks:
        follower.unread += chunk
        while True:
            mode = follower.mode
            text, tag = follower.take()
            add(text)
            if tag is None:
                break
            follower.cross(tag)
            if mode is Mode.CALL:
                follower.end_call(empty)
            spans.append((follower.mode, empty))
    add(follower.unread)
    return spans


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.integers(1, 9))
def test_text_and_bytes_are_split_alike_in_chunks_of_any_size(text: str, size: int) -> None:
    whole = follow(TAGS, [text])
    assert follow(TAGS, [text[i : i + size] for i in range(0, len(text), size)]) == whole
    assert follow(BYTES, [text.encode()]) == [(mode, span.encode()) for mode, span in whole]


def test_each_mode_has_its_own_tags() -> None:
    text = "a <think>b <call> ST</think><call>c <think> ST</call>d"
    assert follow(TAGS, [text]) == [
        (Mode.TEXT, "a "),
        (Mode.THINKING, "b <call> ST"),
        (Mode.TEXT, ""),
        (Mode.CALL, "c <think> ST"),
        (Mode.TEXT, "d"),
    ]


def test_the_end_tag_of_a_call_ends_it_only_when_the_reader_says_so() -> None:
    follower = TagFollower(TAGS, Mode.CALL, '"a</call>b</call> c')
    assert follower.take() == ('"a', "</call>")
    follower.cross("</call>")
    assert follower.mode is Mode.CALL
    assert follower.take() == ("b", "</call>")
    follower.cross("</call>")
    follower.end_call("<think>")
    assert (follower.mode, follower.unread) == (Mode.TEXT, "<think> c")


def test_in_a_value_only_stop_sequences_count() -> None:
    follower = TagFollower(TAGS, Mode.TEXT, "{<think><call> ST}")
    assert follower.take(in_value=True) == ("{<think><call> ", "ST")


def test_a_copy_goes_on_by_itself() -> None:
    follower = TagFollower(TAGS, Mode.TEXT, "a <thi")
    other = follower.copy()
    other.unread += "nk>b"
    assert other.take() == ("a ", "<think>")
    assert follower.unread == "a <thi"
