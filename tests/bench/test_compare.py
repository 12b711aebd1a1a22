"""The comparison's parts: its model, its servers' processes, its table."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from pensieve.bench.compare import TRACE, Measurement, as_json, compare, describe, measure
from pensieve.bench.config import TraceConfig
from pensieve.bench.filler_words import words
from pensieve.bench.fleet import PlayedTrace
from pensieve.bench.random_model import write_model
from pensieve.bench.random_weights import CONFIGS, NUM_BYTES, SPECIAL_TOKENS, VOCABULARY, random_weights
from pensieve.bench.server_process import ResourceUsage, read_processes, read_time, tree_usage
from pensieve.bench.servers import SERVERS, ServerFailed, ServerSpec, environment, running
from pensieve.bench.summary import summarise

from .test_summary import record


def measurement(title: str, wall_s: float, first_s: float) -> Measurement:
    run = PlayedTrace([record(delta_s=[first_s, first_s + 0.5])], wall_s)
    return Measurement(title, summarise(run), peak_bytes=10**9, cpu_s=3.0, outputs_differ=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bench") / "model")


def test_the_same_seed_writes_the_same_model(model: Path, tmp_path: Path) -> None:
    again = write_model(tmp_path / "again")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        first, second = (hashlib.sha256((folder / name).read_bytes()).digest() for folder in (model, again))
        assert first == second


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_can_never_end_an_answer(kind: str) -> None:
    weights = random_weights(kind, seed=0)
    special = NUM_BYTES + len(SPECIAL_TOKENS)
    assert weights["lm_head.weight"].shape[0] == VOCABULARY
    assert not np.any(weights["lm_head.weight"][:special])
    assert np.all(np.any(weights["lm_head.weight"][special:], axis=1))


def test_the_tokenizer_reads_made_up_words_and_anything_else(model: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    text = words(random.Random(0), 2000)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert 3 < len(text) / len(tokens) < 4
    assert tokenizer.decode(tokenizer.encode('{"ä": 1}\n')) == '{"ä": 1}\n'


def test_the_template_shows_tools_and_every_message(model: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    messages = [{"role": role, "content": f"<{role}>"} for role in ("system", "user", "assistant", "user")]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    plain = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert plain.startswith("<|im_start|>system\n<system><|im_end|>\n<|im_start|>user\n<user><|im_end|>\n")
    assert plain.endswith("<|im_end|>\n<|im_start|>assistant\n")
    with_tools = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert with_tools.index('"look"') < with_tools.index("<system>") < with_tools.index("<user>")


def test_a_tree_of_processes_counts_together() -> None:
    usages, children = read_processes(["10 1 100 0:01.50", "11 10 50 2.5", "12 11 1 1:00:00"])
    assert usages[10] == ResourceUsage(102_400, 1.5)
    assert usages[12].cpu_s == 3600
    assert children == {1: [10], 10: [11], 11: [12]}
    assert read_time("02:03.5") == 123.5


def test_a_child_is_part_of_its_parents_tree() -> None:
    hungry = "b = bytearray(60_000_000); b[::4096] = b'x' * len(b[::4096]); print(flush=True); input()"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        usage = tree_usage(process.pid)
        process.communicate(b"\n")
    assert usage.resident_bytes > 60_000_000
    assert usage.cpu_s > 0


def script_server(script: str) -> ServerSpec:
    return ServerSpec("script", "anthropic", lambda _, port: ["python", "-c", script, str(port)])


HTTP_SERVER = """
import http.server, json, subprocess, sys
child = subprocess.Popen(["sleep", "100"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(json.dumps({"data": [{"id": "tiny"}]}))
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["model"] == "tiny"
        start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0}}}
        deltas = [{"type": "content_block_delta", "delta": {"text": " da"}}] * body["max_tokens"]
        end = {"type": "message_delta", "usage": {"output_tokens": body["max_tokens"]}}
        events = [start, *deltas, end, {"type": "message_stop"}]
        self.answer("".join(f"data: {json.dumps(event)}\\n\\n" for event in events))
    def answer(self, text):
        self.send_response(200); self.end_headers(); self.wfile.write(text.encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_is_stopped_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with running(script_server(HTTP_SERVER), Path(sys.executable).parent, tmp_path, log) as (server, url):
        assert url.startswith("http://127.0.0.1:")
        while not server.peak_bytes:
            time.sleep(0.01)
        child = int(log.read_text().split("child ")[1].split()[0])
    assert not server.is_running
    deadline_s = time.monotonic() + 10  # a killed process may take a moment to die
    while is_alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_alive(child)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


BENCH = """
import os, sys, time
from pathlib import Path
from pensieve.bench.server_process import ServerProcess
with ServerProcess(["sleep", "100"], os.environ, Path(sys.argv[1])) as server:
    print(server._process.pid, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_a_bench_that_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    """`timeout` ended a bench while its server started; the server went on, with all memory of the GPU."""
    command = [sys.executable, "-c", BENCH, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as bench:
        assert bench.stdout is not None
        server = int(bench.stdout.readline())
        assert is_alive(server)
        bench.send_signal(number)
    deadline_s = time.monotonic() + 10
    while is_alive(server) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_alive(server)


def test_a_server_is_measured_from_its_start_to_its_end(tmp_path: Path) -> None:
    trace = TraceConfig(sessions=2, turns=2, system_chars=90, tools=0, turn_chars=20, output_tokens=3)
    found = measure(script_server(HTTP_SERVER), trace, tmp_path)
    assert (found.summary.done, found.summary.output_tokens, found.outputs_differ) == (4, 12, 0)
    assert (found.peak_bytes > 1_000_000, found.cpu_s >= 0) == (True, True)
    requests = json.loads((tmp_path / "runs" / "script.json").read_text())["requests"]
    assert [request["outcome"] for request in requests] == ["done"] * 4


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    spec = script_server("import sys; sys.exit('no such model')")
    with (
        pytest.raises(ServerFailed, match="no such model"),
        running(spec, Path(sys.executable).parent, tmp_path, tmp_path / "log"),
    ):
        pass


def test_servers_get_nothing_of_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    for spec in SERVERS:
        variables = environment(spec, tmp_path, tmp_path / "home")
        assert "HF_TOKEN" not in variables
        assert variables["HOME"] == str(tmp_path / "home")


def test_a_server_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(spec: ServerSpec, *_: object) -> Measurement:
        if spec.name == "vllm-mlx":
            raise ServerFailed("no")
        return measurement(spec.title, 2.0, 1.0)

    monkeypatch.setattr("pensieve.bench.compare.measure", measure)
    found = compare(SERVERS, TRACE, 2, tmp_path)
    assert {name: len(runs) for name, runs in found.items()} == {
        "pensieve": 2,
        "mlx-lm": 2,
        "rapid-mlx": 2,
    }


def test_the_table_has_medians_ranges_and_ratios_to_the_best_peer() -> None:
    measurements = {
        "pensieve": [measurement("pensieve", wall, 0.5) for wall in (2.0, 3.0, 7.0)],
        "slow": [measurement("slow 1", 12.0, 1.0)],
        "early": [measurement("early 2", 30.0, 0.25)],
    }
    lines = [line.split("  ") for line in describe(measurements, turns=1).splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells[0] == ["median (range)", "pensieve", "slow 1", "early 2", "pensieve / best peer"]
    found = {title: values for title, *values in cells[1:]}
    assert found["wall s"] == ["3.00 (2.00-7.00)", "12.0", "30.0", "0.2500"]
    assert found["TTFT 1 s"] == ["0.5000", "1.00", "0.2500", "2.00"]
    assert found["turn 1 mean s"] == ["1.00", "1.50", "0.7500", "1.33"]
    assert found["Jain of turn times"] == ["1.00", "1.00", "1.00", "-"]


def test_all_figures_can_be_written_as_json() -> None:
    found = as_json({"commit": "x"}, TRACE, {"pensieve": [measurement("pensieve", 2.0, 1.0)]})
    assert json.loads(json.dumps(found))["servers"]["pensieve"][0]["summary"]["wall_s"] == 2.0
