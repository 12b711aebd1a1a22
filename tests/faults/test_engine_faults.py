"""Faults in the engine of a running server: what its clients get; and no answer has another's words."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from pensieve.bench.client import read_metric, stream
from pensieve.bench.turns import words

from ..budget import LONG, trials
from .faulty_runners import CALLS_FOR_NAN, CALLS_FOR_THE_END, ELSEWHERE, OUT_OF_RANGE
from .figures import Figures, count_told
from .mixed_traffic import MixedTraffic
from .questions import ALLOWED_S, CANARY, GOLDEN, counting, question
from .test_bad_input import PATHS, odd_texts, send_all
from .watched_server import WatchedServer, watched_server

FAULTY = "pensieve.tests.faults.faulty_runners:build_faulty"
WATCHED = "pensieve.tests.faults.faulty_runners:build_watched"
CHAOTIC = "pensieve.tests.faults.faulty_runners:build_chaotic"


def ask(url: str, body: dict[str, Any]) -> str:
    """Return an answer's text, or how it failed."""
    try:
        return stream(url, body, ALLOWED_S).text
    except RuntimeError as error:
        return f"error: {error}"


def ask_all(url: str, bodies: list[dict[str, Any]]) -> list[str]:
    """Ask at once."""
    with ThreadPoolExecutor(max(1, len(bodies))) as clients:
        return list(clients.map(lambda body: ask(url, body), bodies))


def test_no_numbers_end_one_request_and_a_lost_engine_ends_the_server(
    tmp_path: Path, figures: Figures
) -> None:
    asked = "it alone gets an error, the others their exact answers"
    nan = figures.begin(28, "NaN in the logits of one request of eight", asked)
    asked = "an error for each; /health 503 and never 200 after it, then status 1"
    lost = figures.begin(26, "an engine that fails for ever", asked)
    asked = "from the first error on: 503 within 1 s, ended within 5 s"
    time_ = figures.begin(26, "an engine that fails for ever: times", asked)
    with watched_server(tmp_path, faulty_build=FAULTY, ends_with=1) as server:
        server.warm_up()
        good = not_a_number(server, figures)
        bodies = [counting(number, CALLS_FOR_THE_END * (number == 3)) for number in range(8)]
        with ThreadPoolExecutor(len(bodies)) as clients, HealthWatch(server.url) as health:
            answers = list(clients.map(lambda body: health.told_by(ask(server.url, body)), bodies))
            server.process.wait(60)
            ended_s = time.monotonic() - health.begun_s
    assert health.statuses, "the first error comes before the end"
    time_.note(f"{health.noticed_s:.2f} s; {ended_s:.1f} s", health.noticed_s < 1 and ended_s < 5)
    nan.check(good, good.endswith(": all exact"))
    num_errors = sum(answer.startswith("error: ") for answer in answers)
    told = f"{num_errors} of {len(answers)} with an error; /health {health.statuses}; "
    told += f"status {server.process.returncode}"
    lost.check(told, num_errors == len(answers) and health.statuses in ([503], [200, 503]))


class HealthWatch:
    """Asks for /health in a thread, from a first error on until nobody answers.

    statuses: of the answers, each once until another came. begun_s: when the first error came, which may be
    that of a request which is taken for the culprit. noticed_s: seconds from then to one that is not 200.
    """

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self.begun_s = 0.0
        self.noticed_s = float("inf")
        self._url = url
        self._has_failed = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> "HealthWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_failed.set()
        self._thread.join()

    def told_by(self, answer: str) -> str:
        """Begin with the first answer that is an error; return the answer."""
        if answer.startswith("error: "):
            self._has_failed.set()
        return answer

    def _look_on(self) -> None:
        with httpx.Client() as client:
            client.get(f"{self._url}/health")  # connects: the port is closed soon after the error
            self._has_failed.wait()
            self.begun_s = time.monotonic()
            with suppress(httpx.HTTPError):
                while True:
                    status = client.get(f"{self._url}/health", timeout=10).status_code
                    if status not in self.statuses[-1:]:
                        self.statuses.append(status)
                    if status != 200:
                        self.noticed_s = min(self.noticed_s, time.monotonic() - self.begun_s)
                    time.sleep(0.005)


def not_a_number(server: WatchedServer, figures: Figures) -> str:
    """Ask eight at once, one of which gets NaN; return what became of them."""
    alone = ask_all(server.url, [counting(number) for number in range(8)])
    num_trials = trials(1, 1, long=8)
    with server.undisturbed(figures, 28, "NaN in the logits"):
        for bad in range(num_trials):
            bodies = [counting(number, CALLS_FOR_NAN * (number == bad)) for number in range(8)]
            answers = ask_all(server.url, bodies)
            assert answers[bad].startswith("error: "), answers[bad]
            others = [number for number in range(8) if number != bad and answers[number] != alone[number]]
            if others:
                return f"of 8 with number {bad} poisoned, {others} differ"
    return f"{count_told(num_trials, 8)} times: all exact"


@pytest.mark.skipif(not LONG, reason="a server of its own; tests/scheduler/test_recovery.py tells as much")
def test_chaos_gives_exact_answers_or_errors(tmp_path: Path, server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(
        58, "one step in a hundred fails", "each answer exact or an error; the canary's known one"
    )
    num_requests = trials(800, 800, "PENSIEVE_FAULTS_CHAOS")
    alone = {number: ask(server.url, counting(number)) for number in range(8)}
    numbers = [number % 8 for number in range(num_requests)]
    ends: Counter[str] = Counter()
    with watched_server(tmp_path, faulty_build=CHAOTIC) as chaotic:
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda number: ask(chaotic.url, counting(number)), numbers))
        canaries = {ask(chaotic.url, CANARY) for _ in range(3)}
        num_failed = read_metric(chaotic.url, "pensieve_failed_steps_total")
    for number, answer in zip(numbers, answers, strict=True):
        ends["error" if answer.startswith("error: ") else str(answer == alone[number])] += 1
    assert num_failed > 2
    told = f"{count_told(num_requests, 800)} requests, {num_failed:.0f} failed steps: {ends['True']} exact, "
    told += f"{ends['error']} with an error, {ends['False']} wrong"
    figure.check(told, not ends["False"] and canaries <= {GOLDEN})


@pytest.mark.skipif(not LONG, reason="a server of its own; `make faults` runs it")
def test_mlx_runs_in_one_thread_and_gets_no_id_out_of_range(tmp_path: Path, figures: Figures) -> None:
    threads = figures.begin(
        31, "mixed traffic, with a disk tier: functions of mlx.core", "in the engine's one thread"
    )
    ids = figures.begin(30, "mixed traffic and odd characters: tokens fed to the model", "0 out of range")
    num_requests = trials(1000, 1000, "PENSIEVE_FAULTS_WATCHED")
    flags = ("--disk-cache-gb", "1", "--cache-dir", str(tmp_path / "kv"))
    with watched_server(tmp_path, *flags, faulty_build=WATCHED) as server:
        traffic = MixedTraffic(server.url, seed=31)
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(traffic.send, range(num_requests)))
        send_all(server, [(path, raw) for raw in odd_texts() for path in PATHS])
        log = server.log_text()
    assert not traffic.wrong, traffic.wrong[:3]
    told = f"{count_told(num_requests, 1000)} requests: "
    elsewhere = log.count(ELSEWHERE) - 1  # the watch tries itself once
    ids.check(f"{told}{log.count(OUT_OF_RANGE)} out of range", OUT_OF_RANGE not in log)
    threads.check(f"{told}{elsewhere} calls elsewhere", elsewhere == 0)


def secret(number: int) -> str:
    """Return words that no other number has."""
    return words(random.Random(1000 + number), 30).strip()


def test_no_answer_has_anothers_secret(server: WatchedServer, figures: Figures) -> None:
    figure = figures.begin(
        29, "a secret in each of many prompts, 16 at a time", "no foreign secret; each as alone"
    )
    num_prompts = trials(32, 32, "PENSIEVE_FAULTS_SECRETS", long=2000)
    secrets = [secret(number) for number in range(num_prompts)]
    assert len(set(secrets)) == num_prompts

    def body(number: int) -> dict[str, Any]:
        rng = random.Random(number)
        system = "You repeat. " + words(random.Random(29), 300) + words(rng, rng.choice([0, 0, 50, 400]))
        return question(f"Write out exactly: {secrets[number]}", 60) | {"system": system}

    with server.undisturbed(figures, 29, "secrets"), ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda number: ask(server.url, body(number)), range(num_prompts)))
    others = [number for number, answer in enumerate(answers) if answer != secrets[number]]
    differing = [number for number in others if ask(server.url, body(number)) != answers[number]]
    foreign = [
        number
        for number, answer in enumerate(answers)
        if any(one in answer for other, one in enumerate(secrets) if other != number)
    ]
    num_copied = num_prompts - len(others)
    assert num_copied > num_prompts / 2
    told = f"{count_told(num_prompts, 2000)} prompts, {num_copied:,} repeated word for word: "
    told += f"{len(foreign)} foreign, "
    figure.check(f"{told}{len(differing)} other than alone", not foreign and not differing)
