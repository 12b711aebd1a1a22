"""What each session and its agents do at one moment, for people to see.

Reports come one by one, each in some ten microseconds, so that whoever reads them can let the event loop go
on in between. The agents of a session and the rows in all are bounded.
"""

from collections import abc
from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

from .scheduler import Scheduler
from .sequence import Sequence
from .session_tree import KnownAgent, KnownSession
from .token_stream import TokenStream

State = Literal["decode", "prefill", "queued", "tools", "idle"]
"""Tools: the last answer has called tools, which the client runs. A session's state is its agents' first."""

RANKS: dict[State, int] = {"decode": 0, "prefill": 1, "queued": 2, "tools": 3, "idle": 4}

MAX_ROWS = 512
"""Sessions and agents of a report, those that were used last."""

MAX_AGENTS = 16
"""Agents of a session in a report, those that were used last."""


class Activity(NamedTuple):
    """What one request does.

    position: sequences that wait before it; None where it does not wait. num_computed, num_prompt: how much
    of its prompt is computed, cached tokens among them. tokens_per_s: None before its second token.
    """

    state: State
    position: int | None
    num_computed: int
    num_prompt: int
    num_tokens: int  # of its prompt, and of its answer so far
    tokens_per_s: float | None
    waiting_s: float  # for its first step, so far; 0 once that has come


class AgentReport(NamedTuple):
    """One agent. activity: of the request of it that is furthest; None where it has none.

    name: empty for the main agent. num_tokens: of its context. tools: that its last answer has called.
    """

    name: str
    parent: str
    kind: str
    state: State
    activity: Activity | None
    num_tokens: int
    tools: frozenset[str]


class SessionReport(NamedTuple):
    """One session. name: as the client names it; empty where it does not. number: the server's own.

    num_tokens: of its largest context. cached_share: of all its prompts' tokens. tokens_per_s: of its answers
    under way together; None where none is. waited_s: of all its requests, for their first steps. device_ms:
    in which the device has computed for it; device_share: of that of all sessions of late. age_s, idle_s:
    since its first request came, and since its last one.
    """

    name: str
    number: int
    account: str
    folder: str
    state: State
    activity: Activity | None  # of the request that is furthest
    num_requests: int  # that have ended, those that were never admitted left out
    num_tokens: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    tokens_per_s: float | None
    waited_s: float
    device_ms: float
    device_share: float
    age_s: float
    idle_s: float
    num_agents: int
    agents: list[AgentReport]

    @property
    def cached_share(self) -> float | None:
        """Which share of its prompts' tokens was cached; None before the first request has ended."""
        return self.num_cached_tokens / self.num_prompt_tokens if self.num_prompt_tokens else None


Places = list[tuple[int, Sequence]]
"""Requests of a session, with their places in the queue; below 0 for those that run."""


def report_sessions(
    scheduler: Scheduler,
    streams: abc.Mapping[Sequence, TokenStream],
    now_s: float,
    account: str | None = None,
) -> Iterator[SessionReport]:
    """Yield the sessions of one account, or of all, those that were used last first.

    They are the sessions of the call, with their requests and the requests' places of the call.
    streams: of the sequences that have not ended. now_s: by the clock that the scheduler is told.
    """
    places = _places(scheduler)
    sessions = list(scheduler.sessions)
    device_ms = sum(session.usage.recent_ms(now_s) for session in sessions)
    own = [session for session in sessions if account is None or session.account.name == account]

    def reports() -> Iterator[SessionReport]:
        num_rows = 0
        for session in own:
            if num_rows >= MAX_ROWS:
                return
            requests: dict[str, list[Activity]] = {}
            for place, sequence in places.get(session.number, ()):
                activity = _activity(sequence, streams.get(sequence), place, now_s)
                requests.setdefault(sequence.request.origin.agent, []).append(activity)
            report = _report(session, requests, now_s, device_ms)
            num_rows += 1 + len(report.agents)
            yield report

    return reports()


def _places(scheduler: Scheduler) -> dict[int, Places]:
    """Return the requests of each session, by the sessions' numbers."""
    found: dict[int, Places] = {}
    queues = scheduler.queues
    for place, sequence in enumerate(
        (*queues.running, *queues.shares.in_order(queues.waiting)), -len(queues.running)
    ):
        if sequence.conversation is not None:
            found.setdefault(sequence.conversation.session.number, []).append((place, sequence))
    return found


def _activity(sequence: Sequence, stream: TokenStream | None, position: int, now_s: float) -> Activity:
    """Return what one request does. position: in the queue; below 0 where it runs."""
    num_prompt, num_tokens = sequence.num_prompt_tokens, len(sequence.tokens)
    state: State = "queued" if position >= 0 else "prefill" if sequence.is_prefilling else "decode"
    rate, waiting_s, num_computed = None, 0.0, sequence.num_committed_tokens
    if stream is not None:
        waiting_s = now_s - stream.arrival_s if stream.admitted_s is None else 0.0
        num_computed = stream.num_cached_tokens if position >= 0 else num_computed
        if stream.first_token_s is not None and num_tokens - num_prompt > 1 and now_s > stream.first_token_s:
            rate = (num_tokens - num_prompt - 1) / (now_s - stream.first_token_s)
    place = position if position >= 0 else None
    return Activity(state, place, min(num_computed, num_prompt), num_prompt, num_tokens, rate, waiting_s)


def _report(
    session: KnownSession, active: dict[str, list[Activity]], now_s: float, all_ms: float
) -> SessionReport:
    requests = [activity for activities in active.values() for activity in activities]
    agents = [
        _agent_report(agent, active.get(agent.name, ()))
        for agent in islice(reversed(session.agents.values()), MAX_AGENTS)
    ]
    furthest = _furthest(requests)
    calls = any(agent.state == "tools" for agent in agents)
    rates = [activity.tokens_per_s for activity in requests if activity.tokens_per_s is not None]
    num_tokens = [*(agent.num_tokens for agent in agents), *(activity.num_tokens for activity in requests)]
    usage = session.usage
    return SessionReport(
        name=session.key[1],
        number=session.number,
        account=session.account.name,
        folder=session.folder,
        state=furthest.state if furthest else "tools" if calls else "idle",
        activity=furthest,
        num_requests=usage.num_requests,
        num_tokens=max(num_tokens, default=0),
        num_prompt_tokens=usage.num_prompt_tokens,
        num_cached_tokens=usage.num_cached_tokens,
        num_generated_tokens=usage.num_generated_tokens,
        tokens_per_s=sum(rates) if rates else None,
        waited_s=usage.waited_s + sum(activity.waiting_s for activity in requests),
        device_ms=usage.device_ms,
        device_share=usage.recent_ms(now_s) / all_ms if all_ms else 0.0,
        age_s=now_s - usage.began_s,
        idle_s=now_s - session.last_s,
        num_agents=len(session.agents),
        agents=agents,
    )


def _agent_report(agent: KnownAgent, requests: abc.Sequence[Activity]) -> AgentReport:
    furthest = _furthest(requests)
    state: State = furthest.state if furthest else "tools" if agent.tools else "idle"
    num_tokens = furthest.num_tokens if furthest else agent.num_tokens
    return AgentReport(agent.name, agent.parent, agent.kind, state, furthest, num_tokens, agent.tools)


def _furthest(requests: abc.Sequence[Activity]) -> Activity | None:
    """Return the request that is nearest to its end; None without requests."""
    return min(requests, key=lambda activity: (RANKS[activity.state], activity.position or 0), default=None)
