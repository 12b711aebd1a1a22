"""The dashboard and the alerts in deploy/ ask for metrics that a server exports."""

import plistlib
import re
import runpy
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pensieve.api.metrics import Metrics
from pensieve.cache.disk.disk_stats import DiskStats

from ..empty_stats import EMPTY_STATS
from ..fakes import FakeModel
from .conftest import Server

ROOT = Path(__file__).parents[2]
PARTS = ("bucket", "sum", "count")
PROMETHEUS = ROOT / "deploy" / "prometheus"


def test_the_dashboard_is_the_one_that_its_panels_make() -> None:
    """After a change of the panels: `.venv/bin/python scripts/dashboard.py`."""
    script = runpy.run_path(str(ROOT / "scripts" / "dashboard.py"))
    assert script["render"]() == script["DASHBOARD"].read_text(encoding="utf-8")


def test_every_query_asks_for_metrics_that_a_server_exports() -> None:
    stats = replace(EMPTY_STATS, disk=DiskStats(limit_bytes=1))
    text, _ = Metrics(FakeModel(), lambda: stats).render()
    types = re.findall(r"^# TYPE (\w+) (\w+)$", text.decode(), flags=re.MULTILINE)
    exported = set()
    for name, kind in types:
        exported |= {f"{name}_{part}" for part in PARTS} if kind in ("histogram", "summary") else {name}
    asked = set()
    for path in (PROMETHEUS / "rules.yml", ROOT / "deploy" / "grafana" / "pensieve.json"):
        asked |= set(re.findall(r"\bpensieve_\w+", path.read_text(encoding="utf-8")))
    assert len(asked) > 30
    assert asked <= exported


def test_both_services_start_the_command() -> None:
    unit = (ROOT / "deploy" / "systemd" / "pensieve.service").read_text(encoding="utf-8")
    assert re.search(r"^ExecStart=%h/\.local/bin/pensieve serve ", unit, flags=re.MULTILINE)
    agent = plistlib.loads((ROOT / "deploy" / "launchd" / "local.pensieve.plist").read_bytes())
    assert agent["ProgramArguments"][1] == "serve"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_each_alert_fires_in_its_state_and_in_no_other(server: Server) -> None:
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        subprocess.run(["promtool", *words], cwd=PROMETHEUS, check=True, capture_output=True)
    text = server.http().get("/metrics").content
    subprocess.run(["promtool", "check", "metrics"], input=text, check=True, capture_output=True)
