"""What bench/micro/served_steps.py records."""

import json
from pathlib import Path
from typing import Any

import pytest

from pensieve.bench.micro import served_steps
from pensieve.bench.micro.bare_engine import TimedRunner
from pensieve.bench.micro.served_steps import REPEATS, main
from pensieve.cache.blocks import BLOCK_SIZE
from pensieve.engine.attention.paged_model import PagedModel
from pensieve.engine.paged_caches import Capacity

SESSIONS, SHARED, NEW, ANSWER = 2, 64, 32, 4
SIZES = [
    *("--sessions", str(SESSIONS), "--shared-tokens", str(SHARED), "--new-tokens", str(NEW)),
    *("--answer-tokens", str(ANSWER), "--step-tokens", "32"),
]


def runner_ahead(paged: PagedModel, num_tokens: int) -> TimedRunner:
    """A runner that queues a step before it reads the one before, as on a GPU."""
    return TimedRunner(paged, Capacity(-(-num_tokens // BLOCK_SIZE)), on_host=False)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["at once", "one step ahead"])
def steps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file: Path = tmp_path_factory.mktemp("steps") / "steps.json"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "one step ahead":
            patch.setattr(served_steps, "timed_runner", runner_ahead)
        main([*SIZES, "--json", str(file)])
    found: list[dict[str, Any]] = json.loads(file.read_text())["steps"]
    return found


def pairs(start: int, end: int) -> int:
    """What the tokens at these positions attend to, each all before it and itself."""
    return sum(range(start + 1, end + 1))


def test_the_fleets_records_add_up_to_its_prompts_and_answers(steps: list[dict[str, Any]]) -> None:
    fleet = [step for step in steps if step["part"] == "fleet"]
    prompt = SHARED + NEW  # and a last token, which is left to decode
    assert sum(step["slice_tokens"] for step in fleet) == SHARED + SESSIONS * NEW
    assert sum(step["slice_pairs"] for step in fleet) == pairs(0, prompt) + pairs(SHARED, prompt)
    assert sum(step["rows"] for step in fleet) == SESSIONS * ANSWER
    assert sum(step["rows_context"] for step in fleet) == SESSIONS * pairs(prompt, prompt + ANSWER)


def test_the_sweep_computes_each_prompt_once_beside_each_batch(steps: list[dict[str, Any]]) -> None:
    sweep = [step for step in steps if step["part"] == "sweep"]
    depths, sizes, batches = 3, 3, (0, 1, SESSIONS)
    joined = REPEATS * depths * sizes * NEW
    sessions = [SHARED + max(1, batch) * NEW for batch in batches]
    assert sum(step["slice_tokens"] for step in sweep) == sum(sessions) + len(batches) * joined


def test_every_kind_of_step_is_met_for_the_first_time_and_again(steps: list[dict[str, Any]]) -> None:
    wanted = {
        (kind, rows, tokens)
        for rows in (0, 1, SESSIONS)
        for tokens in (0, 8, 16, 32)
        if (kind := ("decode + slice" if rows else "slice") if tokens else "decode" if rows else "")
    }
    for is_first in (True, False):
        met = {
            (step["kind"], step["rows"], step["slice_tokens"])
            for step in steps
            if step["is_first"] == is_first
        }
        assert wanted <= met
    assert all(step["seconds"] > 0 < step["host_seconds"] for step in steps)
    assert {step["slice_start"] for step in steps if step["slice_tokens"] == 32} >= {0, SHARED // 2, SHARED}


def test_a_measurement_ends_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SIZES, "--seconds", "0"])
    assert "stopped after 0 s" in capsys.readouterr().out


def test_sizes_that_the_scheduler_refuses_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sessions", "8", "--step-tokens", "8"])
    assert "--step-tokens must be greater than --max-batch" in capsys.readouterr().err
