"""A server process whose disk fails: its clients notice nothing. The bench disk_failures.py tries more."""

import errno
from itertools import count
from pathlib import Path

import pytest

from pensieve.bench.client import read_metric
from pensieve.bench.micro.disk_failures import FOREVER, OFF_LINE, DiskTrial
from pensieve.bench.restart import running


@pytest.mark.slow
def test_a_disk_that_fails_once_and_then_for_ever_changes_no_answer(tmp_path: Path) -> None:
    trial = DiskTrial(tmp_path, "demo", num_tokens=4)
    trial.fail("write", errno.ENOSPC, 2, 1)
    with running(tmp_path, "demo", trial.environment) as (server, url):
        trial.play(url, 0, 2)
        assert read_metric(url, "pensieve_disk_off") == 0
        trial.fail("sync", errno.EIO, 1, FOREVER)
        seeds = count(1)
        while not read_metric(url, "pensieve_disk_off"):
            trial.play(url, next(seeds), 1)
        for seed in range(next(seeds)):
            trial.play(url, seed, 1)
    assert trial.num_wrong == 0
    assert server.log.read_text(encoding="utf-8").count(OFF_LINE) == 1
