"""Figures of a played trace: percentiles and groups. Pure arithmetic."""

import math
from collections import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .fairness import Waits, jain, waits
from .fleet import PlayedTrace, Record

CacheState = Literal["cold", "partial", "hit", "unknown"]

COLD_SHARE = 0.05  # of the prompt: any two begin with the same few tokens of the template
HIT_SHARE = 0.95  # of what the conversation sent before; blocks and the answer's own tokens make up the rest


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Mean and percentiles of `count` values; None when there are no values."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a played trace. Times are seconds."""

    wall_s: float
    requests: int
    done: int
    cancelled: int
    errors: int
    deltas: int
    output_tokens: int
    output_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    fairness: float  # Jain's index over sessions' tokens/s: 1 is even, 1/sessions is one session alone
    turn_fairness: float  # Jain's index over sessions' mean turn times: 1 where all sessions wait as long
    device_fairness: float | None  # Jain's index over sessions' device time; None where nobody tells it
    waits: Waits | None
    ttft_s: Percentiles
    ttft_by_turn_s: dict[str, Percentiles]  # of the sessions' own turns, without subagents
    ttft_by_cache_s: dict[str, Percentiles]
    turn_s: Percentiles  # from sending a request to its last token, of requests that were answered whole
    turn_by_number_s: dict[str, Percentiles]  # of the sessions' own turns, without subagents
    inter_token_s: Percentiles
    end_to_end_s: Percentiles  # as turn_s, but to the end of the stream
    error_texts: dict[str, int]


def percentile(values: abc.Sequence[float], share: float) -> float | None:
    """Return the value below which `share` of the values lie, interpolated between neighbours."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def percentiles(values: Iterable[float | None]) -> Percentiles:
    """Return the percentiles of the values that are not None."""
    known = [value for value in values if value is not None]
    p50, p95, p99, largest = (percentile(known, share) for share in (0.5, 0.95, 0.99, 1.0))
    mean = sum(known) / len(known) if known else None
    return Percentiles(len(known), mean, p50, p95, p99, largest)


def cache_state(record: Record) -> CacheState:
    """Return how much of the prompt came from the cache: nothing, a part, or all that was sent before.

    A conversation's first request has nothing sent before: it is partial at best, by other sessions' prompts.
    """
    cached = record.usage.cached
    if cached is None:
        return "unknown"
    if record.previous_prompt is not None and cached >= HIT_SHARE * record.previous_prompt:
        return "hit"
    return "cold" if cached <= COLD_SHARE * (record.usage.prompt or 0) else "partial"


def summarise(run: PlayedTrace) -> Summary:
    """Return all figures. Times to the first token are of every request that got one."""
    records = run.records
    done = [record for record in records if record.outcome == "done"]
    errors = [record.error or "" for record in records if record.outcome == "error"]
    output = sum(record.num_output for record in records)
    main = [record for record in records if record.agent == "main"]
    return Summary(
        wall_s=run.wall_s,
        requests=len(records),
        done=len(done),
        cancelled=sum(record.outcome == "cancelled" for record in records),
        errors=len(errors),
        deltas=sum(len(record.delta_s) for record in records),
        output_tokens=output,
        output_tokens_per_s=output / run.wall_s,
        prompt_tokens=sum(record.usage.prompt or 0 for record in records),
        cached_tokens=sum(record.usage.cached or 0 for record in records),
        fairness=jain(session_rates(records)),
        turn_fairness=jain(session_turn_times(main)),
        device_fairness=jain(run.device_ms) if any(run.device_ms) else None,
        waits=waits(records),
        ttft_s=percentiles(record.first_s for record in records),
        ttft_by_turn_s=first_token_by(main, turn_number),
        ttft_by_cache_s=first_token_by(records, cache_state),
        turn_s=percentiles(record.turn_s for record in records),
        turn_by_number_s=turn_time_by(main, turn_number),
        inter_token_s=percentiles(gap for record in records for gap in gaps(record)),
        end_to_end_s=percentiles(record.end_s for record in done),
        error_texts={text: errors.count(text) for text in sorted(set(errors))},
    )


def gaps(record: Record) -> list[float]:
    """Return the times between an answer's pieces."""
    return [later - earlier for earlier, later in pairwise(record.delta_s)]


def session_rates(records: abc.Sequence[Record]) -> list[float]:
    """Return each session's output tokens a second of its requests; time between requests does not count."""
    rates = []
    for session in sorted({record.session for record in records}):
        own = [record for record in records if record.session == session]
        rates.append(sum(record.num_output for record in own) / sum(record.end_s for record in own))
    return rates


def session_turn_times(records: abc.Sequence[Record]) -> list[float]:
    """Return each session's mean turn time. A session without an answer that came whole has none."""
    times: dict[int, list[float]] = {}
    for record in records:
        if record.turn_s is not None:
            times.setdefault(record.session, []).append(record.turn_s)
    return [sum(own) / len(own) for own in times.values()]


def turn_number(record: Record) -> str:
    """Return a request's place in its conversation as the name of a group."""
    return str(record.turn)


def first_token_by(records: abc.Sequence[Record], key: Callable[[Record], str]) -> dict[str, Percentiles]:
    """Return the times to the first token, grouped by `key`."""
    return {name: percentiles(record.first_s for record in own) for name, own in grouped(records, key)}


def turn_time_by(records: abc.Sequence[Record], key: Callable[[Record], str]) -> dict[str, Percentiles]:
    """Return the times to the last token, grouped by `key`."""
    return {name: percentiles(record.turn_s for record in own) for name, own in grouped(records, key)}


def grouped(
    records: abc.Sequence[Record], key: Callable[[Record], str]
) -> Iterable[tuple[str, list[Record]]]:
    """Yield each value of `key`, sorted, with its records."""
    for name in sorted({key(record) for record in records}):
        yield name, [record for record in records if key(record) == name]
