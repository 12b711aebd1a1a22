"""The environment variables that point Claude Code to this server."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ... import LOCAL_KEY

BASE_URL = "ANTHROPIC_BASE_URL"
API_KEY = "ANTHROPIC_API_KEY"
AUTH_TOKEN = "ANTHROPIC_AUTH_TOKEN"

MODEL_ALIASES = ("OPUS", "SONNET", "HAIKU", "FABLE")

MAX_OUTPUT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers, as its /health describes it."""

    url: str
    model: str
    max_context: int


def client_environment(
    server: RunningServer, api_key: str | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the client's environment: the inherited variables, and those that point it to the server.

    API_KEY is left out: given both API_KEY and AUTH_TOKEN, the client would ask which of them to use.
    """
    needed = {
        BASE_URL: server.url,
        AUTH_TOKEN: api_key or LOCAL_KEY,
        "ANTHROPIC_MODEL": server.model,
        **{f"ANTHROPIC_DEFAULT_{alias}_MODEL": server.model for alias in MODEL_ALIASES},
        "NO_PROXY": ",".join(filter(None, (inherited.get("NO_PROXY"), urlsplit(server.url).hostname))),
    }
    preferred = {
        **context_limits(server.max_context),
        # Both remove text that differs between sessions from the head of the prompt: it would not be shared.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    }
    kept = {name: value for name, value in inherited.items() if name != API_KEY}
    return preferred | kept | needed


def context_limits(max_context: int) -> dict[str, str]:
    """Return the variables that tell the client how long conversations and answers may be.

    An answer gets at most a quarter of the context, so that most of it is left to the conversation.
    """
    return {
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(max_context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(min(MAX_OUTPUT_TOKENS, max_context // 4)),
    }


def base_url(host: str, port: int) -> str:
    """Return the URL at which a client on this machine finds a server that listens on `host`."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{everywhere.get(host, f'[{host}]' if ':' in host else host)}:{port}"
