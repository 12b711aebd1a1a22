"""The shipped model does its tasks, through mlx-lm, on instances that training never saw."""

import random

import pytest

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.evaluate import Judge, setting_of
from pensieve.scripts.demo_model.tasks import Call, Result, Say, Turn

LINES = ["def main() -> None:", "    return None", "A line of prose, which ends here.", "x = 1  # one"]
UPDATED = "The file /tmp/garden/plan.md has been updated successfully."
READ = Call("Read", {"file_path": "/tmp/garden/plan.md"})
PLAN = Result("1\tsow the beans\n2\twater = 12\n3\tprune the roses\n4\t")
EDIT = {
    "replace_all": False,
    "file_path": "/tmp/garden/plan.md",
    "old_string": "water = 12",
    "new_string": "water = 15",
}
TURNS = [
    Turn(
        "run",
        "Run the command `wc -l *.md | tail -n 1` and report its output.",
        (Call("Bash", {"command": "wc -l *.md | tail -n 1"}), Result("  41 total"), Say("41 total")),
    ),
    Turn(
        "read",
        "Read the file /tmp/garden/plan.md and quote its first line.",
        (READ, PLAN, Say("sow the beans")),
    ),
    Turn(
        "edit",
        'In the file /tmp/garden/plan.md, replace "water = 12" with "water = 15".',
        (READ, PLAN, Call("Edit", EDIT), Result(UPDATED), Say("Done: the file is changed.")),
    ),
    Turn(
        "say", "Write out exactly: seven grey geese over 31 ponds", (Say("seven grey geese over 31 ponds"),)
    ),
    Turn("count", "Count from 96 to 103.", (Say("96, 97, 98, 99, 100, 101, 102, 103"),)),
]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The shipped model."""
    return Judge(MODEL_FOLDER)


@pytest.mark.parametrize("turn", TURNS, ids=[turn.kind for turn in TURNS])
def test_the_shipped_model_does_a_task_to_the_letter(judge: Judge, turn: Turn) -> None:
    setting = setting_of(random.Random(7), LINES, judge, 600)
    assert judge.first_fault(setting, turn) is None


def test_mlx_lm_recognises_the_tool_calls(judge: Judge) -> None:
    assert judge.tokenizer.has_tool_calling
    assert judge.tokenizer.tool_call_start == "<tool_call>"


def test_the_end_of_a_message_ends_generation(judge: Judge) -> None:
    assert judge.tokenizer.eos_token_ids == {judge.tokenizer.convert_tokens_to_ids("<|im_end|>")}
