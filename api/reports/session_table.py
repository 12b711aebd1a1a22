"""What the sessions do, as JSON: the body of `GET /v1/sessions`, and the data of the pages that show it."""

import asyncio
import json
from typing import Any

from ...scheduler.session_report import Activity, AgentReport, SessionReport
from ..protocols import SchedulerInterface

ROWS_AT_ONCE = 16
"""Sessions after which the event loop may go on."""


async def session_table(scheduler: SchedulerInterface, account: str | None = None) -> dict[str, Any]:
    """Return the sessions of one account, or of all, those that were used last first.

    docs/sessions.md describes the fields.
    """
    rows: list[dict[str, Any]] = []
    for report in scheduler.sessions(account):
        if len(rows) % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
            await asyncio.sleep(0)
        rows.append(session_row(report))
    return {"sessions": rows}


def encode(table: dict[str, Any]) -> bytes:
    """Return a table as JSON. For a thread: each row is written by itself, so that the event loop goes on."""
    rows = [json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in table["sessions"]]
    return f'{{"sessions":[{",".join(rows)}]}}'.encode("utf-8", "replace")


def session_id(name: str, number: int) -> str:
    """Return what a session is called: the client's name, or the server's number of it."""
    return name or f"#{number}"


def session_row(report: SessionReport) -> dict[str, Any]:
    """Return one session's row."""
    return {
        "id": session_id(report.name, report.number),
        "number": report.number,
        "key": report.account,
        "folder": report.folder or None,
        "state": report.state,
        **_progress(report.activity),
        "context_tokens": report.num_tokens,
        "requests": report.num_requests,
        "prompt_tokens": report.num_prompt_tokens,
        "cached_tokens": report.num_cached_tokens,
        "cached_share": _rounded(report.cached_share, 4),
        "generated_tokens": report.num_generated_tokens,
        "tokens_per_s": _rounded(report.tokens_per_s, 2),
        "waited_s": round(report.waited_s, 3),
        "device_ms": round(report.device_ms, 1),
        "device_share": round(report.device_share, 4),
        "age_s": round(report.age_s, 1),
        "idle_s": round(report.idle_s, 1),
        "num_agents": report.num_agents,
        "agents": [_agent(agent) for agent in report.agents],
    }


def _agent(agent: AgentReport) -> dict[str, Any]:
    activity = agent.activity
    return {
        "id": agent.name,
        "parent": agent.parent,
        "type": agent.kind,
        "state": agent.state,
        **_progress(activity),
        "context_tokens": agent.num_tokens,
        "tokens_per_s": None if activity is None else _rounded(activity.tokens_per_s, 2),
        "tools": sorted(agent.tools),
    }


def _progress(activity: Activity | None) -> dict[str, int | None]:
    """Return a request's place in the queue, or how much of its prompt is computed."""
    queued = activity.position if activity is not None else None
    is_prompt = activity is not None and activity.state in ("queued", "prefill")
    return {
        "position": queued,
        "computed": activity.num_computed if activity is not None and is_prompt else None,
        "prompt": activity.num_prompt if activity is not None and is_prompt else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
