"""The real Claude Code's WebSearch: it leaves the search to the server, whose user names a command."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pensieve.api.config import ServerConfig
from pensieve.bench.claude import Session

from ..api import tokenizers
from ..api.conftest import Server, running
from ..fakes import FakeModel
from .cued_model import CuedModel

PROGRAM = 'print(\'{"title": "About cats", "url": "https://a.org/x", "text": "Cats purr."}\')'


def call(name: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'query': 'cats'}})}\n</tool_call>"


ANSWERS = {
    "Begin.": call("WebSearch"),
    "Perform a web search for the query: cats": call("web_search"),
    "Cats purr.": "It says that they purr.",
    "It says that they purr.": "All is done.",
}


@pytest.mark.slow
def test_a_search_of_the_clients_reaches_the_model(claude: str, tmp_path: Path) -> None:
    tokenizer = tokenizers.demo()
    facts = FakeModel(max_context=400_000, vocab_size=10**6, eos_token_ids=frozenset(tokenizer.eos_token_ids))
    model = CuedModel(tokenizer, ANSWERS)
    config = ServerConfig(search_command=shlex.join([sys.executable, "-c", PROGRAM]))
    server = Server(config=config, model=facts, tokenizer=tokenizer, scheduler=model)
    with Session("", claude) as session, running(server):
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(session.home),
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_AUTH_TOKEN": "local",
            "ANTHROPIC_MODEL": facts.name,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        flags = ["-p", "Begin.", "--allowedTools", "WebSearch", "--output-format", "json"]
        done = subprocess.run(
            [claude, *flags], env=variables, cwd=session.project, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
    assert json.loads(done.stdout)["result"] == "All is done."
    assert 'Links: [{"title":"About cats","url":"https://a.org/x"}]' in model.prompts[-1]
