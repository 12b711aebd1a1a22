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
    sessions = [KilledSession(seed) for seed in range(2)]
    texts = [words(random.Random(session.seed), 1200) for session in sessions]
    with running(tmp_path, "demo") as (server, url):
        answers = [session.ask(url, text, 8).text for session, text in zip(sessions, texts, strict=True)]
        num_blocks = sum(session.num_finished // BLOCK_SIZE for session in sessions)
        wait_until(lambda: read_metric(url, "pensieve_disk_blocks") >= num_blocks, 60)
        server.kill()
    with running(tmp_path, "demo") as (_, url):
        for session in sessions:
            num_finished = session.num_finished
            found = session.ask(url, "And now?", 1).cached_tokens
            assert found >= num_finished - BLOCK_SIZE
        again = [KilledSession(0).ask(url, text, 8).text for text in texts]
        assert again == answers
        assert read_metric(url, "pensieve_disk_read_bytes_total") > 0
        assert read_metric(url, "pensieve_disk_failures_total") == 0
