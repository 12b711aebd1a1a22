"""Two servers one after the other with one folder for KV, the first one killed."""

import random
from pathlib import Path

import pytest

from pensieve.bench.client import read_metric
from pensieve.bench.restart import KilledSession, running
from pensieve.bench.turns import words
from pensieve.cache.blocks import BLOCK_SIZE

from ..api.conftest import wait_until


@pytest.mark.slow
def test_the_server_after_a_killed_one_finds_its_kv(tmp_path: Path) -> None:
    session, text = KilledSession(0), words(random.Random(0), 900)
    with running(tmp_path, "demo") as (server, url):
        answer = session.ask(url, text, 8).text
        num_finished = session.num_finished
        wait_until(lambda: read_metric(url, "pensieve_disk_blocks") >= num_finished // BLOCK_SIZE, 60)
        server.kill()
    with running(tmp_path, "demo") as (_, url):
        assert session.ask(url, "And now?", 1).cached_tokens >= num_finished - BLOCK_SIZE
        assert KilledSession(0).ask(url, text, 8).text == answer
        assert read_metric(url, "pensieve_disk_read_bytes_total") > 0
        assert read_metric(url, "pensieve_disk_failures_total") == 0
