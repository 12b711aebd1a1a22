"""`GET /v1/sessions`: what it says of a session, and that it lets the event loop go on."""

import asyncio
import json
from collections.abc import Iterator

from pensieve.api.reports.session_table import ROWS_AT_ONCE, encode, session_table
from pensieve.scheduler.session_report import SessionReport

from ...fakes import ScriptedScheduler
from ..conftest import wait_until
from .conftest import Scheduled
from .test_causes import FIRST, SECOND


def test_a_session_is_shown_with_its_folder_its_state_and_what_it_has_used(scheduled: Scheduled) -> None:
    system = "Be brief.\n\n# Environment\n - Primary working directory: /home/u/secret/project"
    for messages in (FIRST, SECOND):
        scheduled.ask("5f2c", messages=messages, system=system)
    (found,) = scheduled.http().get("/v1/sessions").json()["sessions"]
    assert (found["id"], found["folder"], found["state"]) == ("5f2c", "project", "idle")
    assert "secret" not in json.dumps(found)
    assert found["requests"] == 2
    assert 0.4 < found["cached_share"] < 1
    assert found["generated_tokens"] == 2 * len("Yes.")
    assert found["context_tokens"] > found["prompt_tokens"] / 2
    assert [agent["id"] for agent in found["agents"]] == [""]
    assert (found["position"], found["tokens_per_s"], found["key"]) == (None, None, "")


def test_a_request_that_is_computed_is_shown_while_it_is(scheduled: Scheduled) -> None:
    scheduled.engine.gate.clear()
    with scheduled.http(**{"x-claude-code-session-id": "5f2c"}).stream(
        "POST", "/v1/messages", json={"model": "default", "max_tokens": 9, "stream": True, "messages": FIRST}
    ):
        table = scheduled.http()
        wait_until(lambda: table.get("/v1/sessions").json()["sessions"][0]["state"] == "prefill")
        (found,) = table.get("/v1/sessions").json()["sessions"]
        assert (found["computed"], found["prompt"]) == (0, found["context_tokens"])


def test_a_long_table_is_made_in_parts_between_which_others_have_their_turn() -> None:
    row = SessionReport(
        *("x", 7, "", "", "idle", None, *[0] * 5, None, *[0.0] * 5, 0, [])  # type: ignore[arg-type]
    )

    class Busy(ScriptedScheduler):
        def sessions(self, account: str | None = None) -> Iterator[SessionReport]:
            return iter([row] * (3 * ROWS_AT_ONCE))

    turns = []

    async def main() -> None:
        async def others() -> None:
            while True:
                turns.append(1)
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        table = await session_table(Busy())
        assert json.loads(encode(table)) == table
        task.cancel()

    asyncio.run(main())
    assert len(turns) == 3
