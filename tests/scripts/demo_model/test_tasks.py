"""The synthetic tasks keep their promises."""

import random
import zlib

import pytest

from pensieve.scripts.demo_model.files import numbered
from pensieve.scripts.demo_model.tasks import Call, Say, Tasks
from pensieve.scripts.demo_model.words import Words

LINES = ["def main() -> None:", "    return None", "A line of prose, which ends here.", "x = 1  # one"]


def tasks(seed: int) -> Tasks:
    """A source of turns."""
    rng = random.Random(seed)
    return Tasks(rng, Words(rng, LINES))


def test_a_seed_fixes_the_turns() -> None:
    first, second = tasks(5), tasks(5)
    assert [first.turn() for _ in range(20)] == [second.turn() for _ in range(20)]


@pytest.mark.parametrize("kind", ["run", "read", "edit", "say", "count"])
def test_training_and_evaluation_never_share_a_request(kind: str) -> None:
    source = tasks(1)
    for held_out in (False, True):
        request = source.turn(kind, held_out).request
        assert (zlib.crc32(request.encode()) % 16 == 0) == held_out


def test_a_command_is_in_its_request() -> None:
    source = tasks(2)
    for _ in range(200):
        turn = source.turn("run")
        call = turn.steps[0]
        assert isinstance(call, Call)
        assert call.arguments["command"] in turn.request


def test_an_edit_replaces_a_text_that_the_request_names() -> None:
    source = tasks(3)
    for _ in range(200):
        turn = source.turn("edit")
        edits = [step for step in turn.steps if isinstance(step, Call) and step.name == "Edit"]
        for edit in edits:
            assert list(edit.arguments) == ["replace_all", "file_path", "old_string", "new_string"]
            assert edit.arguments["old_string"] in turn.request
            assert edit.arguments["new_string"] in turn.request


def test_every_turn_ends_in_words() -> None:
    source = tasks(4)
    for _ in range(300):
        last = source.turn().steps[-1]
        assert isinstance(last, Say)
        assert last.text.strip()


def test_numbered_lines_show_the_empty_line_after_a_final_newline() -> None:
    assert numbered(["a", "b"], final_newline=True) == "1\ta\n2\tb\n3\t"
    assert numbered(["a", "b"], final_newline=False) == "1\ta\n2\tb"
