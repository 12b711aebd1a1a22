"""Asks a real Prometheus for every panel of the dashboard, and draws what it answers.

    python scripts/draw_dashboard.py --url http://127.0.0.1:7777 --seconds 90 --out panels.png

Wants `prometheus` on the path and matplotlib. It watches the server at --url for --seconds; meanwhile
`pensieve bench --url ...` must use that server. Panels without data are named, and the exit status is then 1.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

dashboard = importlib.import_module("dashboard")

ADDRESS = "127.0.0.1:19099"
"""Where this Prometheus listens."""

CONFIG = """
global: {{ scrape_interval: 1s }}
scrape_configs:
  - job_name: pensieve
    static_configs: [{{ targets: ["{target}"] }}]
"""

VALUES = {"$__rate_interval": "15s", "$instance": ".*"}
"""What Grafana puts in the place of its variables."""


class Curve(NamedTuple):
    """One series of a panel."""

    legend: str
    points: list[tuple[float, float]]


def ask(expression: str, started_s: float) -> list[dict[str, Any]]:
    """Return the series that an expression has had since `started_s`."""
    for word, text in VALUES.items():
        expression = expression.replace(word, text)
    fields = {"query": expression, "start": started_s, "end": time.time(), "step": 1}
    url = f"http://{ADDRESS}/api/v1/query_range?{urllib.parse.urlencode(fields)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        series: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return series


def curves(panel: dict[str, Any], started_s: float) -> list[Curve]:
    """Return a panel's curves, without points that are no number."""
    found = []
    for target in panel["targets"]:
        for series in ask(target["expr"], started_s):
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", value)
            points = [(at - started_s, float(value)) for at, value in series["values"] if value != "NaN"]
            if points:
                found.append(Curve(legend, points))
    return found


def draw(shown: list[tuple[str, str, list[Curve]]], path: Path) -> None:
    """Draw all panels into one picture."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    columns = 4
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 2.6 * rows), layout="constrained")
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (title, unit, found) in zip(axes.flat, shown, strict=False):
        for curve in found:
            axis.plot(*zip(*curve.points, strict=True), label=curve.legend, linewidth=1)
        axis.set_title(f"{title} ({unit})" if unit != "short" else title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        if any(curve.legend != "__auto" for curve in found):
            axis.legend(fontsize=6)
    figure.savefig(path, dpi=80)


def main() -> int:
    """Watch, ask, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:7777")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--out", type=Path, default=Path("panels.png"))
    options = parser.parse_args()
    rows = tomllib.loads(dashboard.PANELS.read_text(encoding="utf-8"))["row"]
    panels = [panel for panel in dashboard.make_dashboard(rows)["panels"] if panel["type"] != "row"]
    with TemporaryDirectory() as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(target=urllib.parse.urlsplit(options.url).netloc), encoding="utf-8")
        words = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        words += [f"--web.listen-address={ADDRESS}", "--log.level=error"]
        with subprocess.Popen(["prometheus", *words]) as prometheus:
            try:
                started_s = time.time()
                time.sleep(options.seconds)
                shown = [
                    (panel["title"], panel["fieldConfig"]["defaults"]["unit"], curves(panel, started_s))
                    for panel in panels
                ]
            finally:
                prometheus.terminate()
    draw(shown, options.out)
    empty = [title for title, _, found in shown if not found]
    print(f"{len(shown)} panels drawn to {options.out}; without data: {', '.join(empty) or 'none'}")
    return int(bool(empty))


if __name__ == "__main__":
    sys.exit(main())
