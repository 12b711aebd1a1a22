"""Writes the Grafana dashboard: `python scripts/dashboard.py`.

The panels stand in deploy/grafana/panels.toml, which says how; the file that Grafana imports is made of them.
"""

import json
import tomllib
from collections import abc
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana"
PANELS, DASHBOARD = FOLDER / "panels.toml", FOLDER / "pensieve.json"

DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

COLUMNS = 24
"""Width of Grafana's grid."""

SIZES = {"timeseries": (8, 8), "stat": (4, 4)}
"""Width and height of a panel by its kind."""

PLACES = {"HERE": '{instance=~"$instance"}', "RANGE": "$__rate_interval"}
"""What stands for the words in capitals of panels.toml."""

Query = tuple[str, str]
"""An expression of Prometheus's language, and the legend of its curves."""


def queries(panel: abc.Mapping[str, Any]) -> list[Query]:
    """Return what a panel asks Prometheus, before HERE and RANGE are replaced."""
    by = panel.get("by", "")
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else ""
    grouped = f"sum by ({by}) " if by else "sum "
    if name := panel.get("gauge"):
        return [(f"{grouped}({name}{{HERE}})", legend)]
    if name := panel.get("rate"):
        return [(f"{grouped}(rate({name}{{HERE}}[RANGE]))", legend)]
    if name := panel.get("quantiles"):
        shares = [panel["quantile"]] if by else [0.5, 0.95, 0.99]
        return [(quantile(share, name, by), legend or f"p{share * 100:.0f}") for share in shares]
    return [(expression, legend) for expression, legend in panel["queries"]]


def quantile(share: float, name: str, by: str) -> str:
    """Return a quantile of a histogram, for each value of the labels `by`."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket{{HERE}}[RANGE])))"


def fill_in(expression: str) -> str:
    """Replace the words in capitals."""
    for word, text in PLACES.items():
        expression = expression.replace(f"{{{word}}}", text).replace(word, text)
    return expression


def make_dashboard(rows: abc.Iterable[abc.Mapping[str, Any]]) -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append(
            {"type": "row", "title": row["title"], "collapsed": False, "gridPos": place, "panels": []}
        )
        top = _add_row(panels, row["panel"], top + 1)
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "pensieve",
        "title": "Pensieve",
        "tags": ["pensieve"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _add_row(panels: list[dict[str, Any]], row: abc.Iterable[abc.Mapping[str, Any]], top: int) -> int:
    """Place a row's panels from line `top` of the grid on; return the first free line below them."""
    left, below = 0, top
    for panel in row:
        width, height = SIZES[panel.get("kind", "timeseries")]
        if left + width > COLUMNS:
            left, top = 0, below
        panels.append(_panel(panel, {"x": left, "y": top, "w": width, "h": height}))
        left, below = left + width, top + height
    return below


def _panel(panel: abc.Mapping[str, Any], place: dict[str, int]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    defaults: dict[str, Any] = {"unit": panel.get("unit", "short"), "min": 0}
    if kind == "timeseries":
        is_stacked = panel.get("stacked", False)
        stacking = {"mode": "normal" if is_stacked else "none"}
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 30 if is_stacked else 5, "stacking": stacking}
    targets = [
        {
            "refId": letter,
            "datasource": DATA_SOURCE,
            "expr": fill_in(query),
            "legendFormat": legend or "__auto",
        }
        for letter, (query, legend) in zip("ABCDEF", queries(panel), strict=False)
    ]
    return {
        "type": kind,
        "title": panel["title"],
        "description": panel["text"],
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(kind),
        "targets": targets,
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
    legend = {"displayMode": "list", "placement": "bottom"}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _variables() -> list[dict[str, Any]]:
    """Return the data source and the servers, to be chosen at the dashboard's top."""
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Server",
            "type": "query",
            "datasource": DATA_SOURCE,
            "query": "label_values(pensieve_uptime_seconds, instance)",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def render() -> str:
    """Return the dashboard's file."""
    rows = tomllib.loads(PANELS.read_text(encoding="utf-8"))["row"]
    return json.dumps(make_dashboard(rows), indent=1) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(render(), encoding="utf-8")
