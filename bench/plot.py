"""Draws a played trace as SVG: a bar for each request's wait and answer, then times to first and last tokens.

The SVG is written as text, so that neither a plotting library nor a browser's script is needed.
"""

from collections import abc
from collections.abc import Callable, Iterable
from xml.sax.saxutils import escape, quoteattr

from .fleet import PlayedTrace, Record
from .summary import cache_state

WIDTH, LEFT, RIGHT, TOP = 900, 130, 20, 60
ROW, BAR, GAP, CHART = 12, 8, 50, 180
TICKS = 6
COLOURS = {
    "cold": "#c0392b",
    "partial": "#e08e0b",
    "hit": "#2e8b57",
    "unknown": "#7f8c8d",
    "answer": "#3b6ea5",
}


def plot(run: PlayedTrace, title: str) -> str:
    """Return the SVG's text."""
    records = sorted(run.records, key=lambda record: (record.session, record.start_s))
    chart_top = TOP + ROW * len(records) + GAP
    parts = [
        _text(LEFT, 22, title, size=15),
        *_legend(),
        *_timeline(records, run.wall_s),
        *_shares(records, chart_top, _first_s, "seconds to the first token, share of requests"),
        *_shares(records, chart_top + CHART + GAP, _turn_s, "seconds to the last token, share of requests"),
    ]
    height = chart_top + 2 * CHART + GAP + 50
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    )
    return "\n".join([head, _box((0, 0, WIDTH, height), "white"), *parts, "</svg>", ""])


def _legend() -> Iterable[str]:
    names = [f"waiting, {state}" for state in ("cold", "partial", "hit", "unknown")] + ["answer"]
    for index, (name, colour) in enumerate(zip(names, COLOURS.values(), strict=True)):
        x = LEFT + index * 145
        yield _box((x, 34, 10, 10), colour)
        yield _text(x + 15, 43, name)


def _timeline(records: abc.Sequence[Record], wall_s: float) -> Iterable[str]:
    bottom = TOP + ROW * len(records)
    yield from _axis(wall_s, bottom, "seconds since the start")
    for index, record in enumerate(records):
        y = TOP + index * ROW
        first_s = record.end_s if record.first_s is None else record.first_s
        start, first, end = (
            LEFT + _scale(time_s, wall_s)
            for time_s in (record.start_s, record.start_s + first_s, record.start_s + record.end_s)
        )
        name = f"session {record.session + 1}" + (" (agent)" if record.agent == "subagent" else "")
        yield _text(LEFT - 8, y + BAR, f"{name}, turn {record.turn}", anchor="end", size=9)
        yield _box((start, y, first - start, BAR), COLOURS[cache_state(record)], record.error or "")
        yield _box((first, y, end - first, BAR), COLOURS["answer"])


def _first_s(record: Record) -> float | None:
    return record.first_s


def _turn_s(record: Record) -> float | None:
    return record.turn_s


def _shares(
    records: abc.Sequence[Record], top: float, time_of: Callable[[Record], float | None], name: str
) -> Iterable[str]:
    """Draw the share of requests whose time is at most so long, a line for each state of the cache."""
    largest = max((time_of(record) or 0.0 for record in records), default=0.0)
    yield _text(LEFT - 8, top + 8, "100 %", anchor="end")
    yield _text(LEFT - 8, top + CHART, "0 %", anchor="end")
    yield from _axis(largest, top + CHART, name)
    for state in ("cold", "partial", "hit", "unknown"):
        own = [time_of(record) for record in records if cache_state(record) == state]
        times = sorted(time_s for time_s in own if time_s is not None)
        if not times:
            continue
        points = [(float(LEFT), top + CHART)]
        for count, time_s in enumerate(times):
            x = LEFT + _scale(time_s, largest)
            points += [(x, top + CHART * (1 - share / len(times))) for share in (count, count + 1)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{line}" fill="none" stroke="{COLOURS[state]}" stroke-width="2"/>'


def _axis(largest: float, y: float, name: str) -> Iterable[str]:
    yield f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="black"/>'
    for tick in range(TICKS):
        value = largest * tick / (TICKS - 1)
        yield _text(LEFT + _scale(value, largest), y + 14, f"{value:.3g}", anchor="middle")
    yield _text(LEFT, y + 28, name)


def _scale(value: float, largest: float) -> float:
    return (WIDTH - LEFT - RIGHT) * value / largest if largest else 0.0


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor={quoteattr(anchor)}'
    return f"<text {place}>{escape(text)}</text>"


def _box(area: tuple[float, float, float, float], colour: str, title: str = "") -> str:
    """Return a rectangle. area: x, y, width, height. The title shows under the pointer."""
    x, y, width, height = area
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" fill="{colour}"'
    return f"<rect {place}><title>{escape(title)}</title></rect>" if title else f"<rect {place}/>"
