"""The variables and flags that point Claude Code to this server, and fit it to the model's context."""

from collections import abc
from dataclasses import dataclass
from urllib.parse import urlsplit

from ... import LOCAL_KEY

BASE_URL = "ANTHROPIC_BASE_URL"
API_KEY = "ANTHROPIC_API_KEY"
AUTH_TOKEN = "ANTHROPIC_AUTH_TOKEN"

MODEL_ALIASES = ("OPUS", "SONNET", "HAIKU", "FABLE")

MODEL = "ANTHROPIC_MODEL"

MAX_OUTPUT_TOKENS = 8192

ROOMY_CONTEXT, SMALL_CONTEXT = 45_000, 20_000
"""Contexts in which Claude Code's full prompt and its prompt with few tools leave room for work.

Claude Code compacts a conversation 13,000 tokens, and an answer, before the context's end. Its full prompt
has 12,000 to 18,000 tokens, by the tokenizer; with few tools it has a third of that, with --bare a tenth.
"""

FEW_TOOLS = "--tools=Bash,Read,Edit,Write"
BARE = "--bare"
NO_SEARCH = "--disallowedTools=WebSearch"
"""Claude Code leaves its web searches to the server: without a command for them each would fail."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers, as its /health describes it."""

    url: str
    model: str
    max_context: int
    searches: bool = False  # the web, for its clients
    certificate: str | None = None  # a file of the one that clients are to trust


def client_environment(
    server: RunningServer, api_key: str | None, inherited: abc.Mapping[str, str]
) -> dict[str, str]:
    """Return the client's environment: the inherited variables, and those that point it to the server.

    API_KEY is left out: given both API_KEY and AUTH_TOKEN, the client would ask which of them to use.
    """
    needed = {
        BASE_URL: server.url,
        AUTH_TOKEN: api_key or LOCAL_KEY,
        MODEL: server.model,
        **{f"ANTHROPIC_DEFAULT_{alias}_MODEL": server.model for alias in MODEL_ALIASES},
        "NO_PROXY": ",".join(filter(None, (inherited.get("NO_PROXY"), urlsplit(server.url).hostname))),
    }
    preferred = {
        **context_limits(server.max_context),
        # Both remove text that differs between sessions from the head of the prompt: it would not be shared.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # In `/model`, the default would be a name for which the client takes a window of a million tokens.
        "CLAUDE_CODE_DISABLE_1M_CONTEXT": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    }
    if server.certificate is not None:
        preferred["NODE_EXTRA_CA_CERTS"] = server.certificate
    kept = {name: value for name, value in inherited.items() if name != API_KEY}
    return preferred | kept | needed


def search_flags(server: RunningServer) -> list[str]:
    """Return the flags that keep searches from the model, unless the server can make them."""
    return [] if server.searches else [NO_SEARCH]


def fitting_flags(max_context: int, arguments: abc.Sequence[str] = ()) -> list[str]:
    """Return the flags that fit the client's prompt to a short context, unless its user has set its tools."""
    given = {argument.partition("=")[0] for argument in arguments}
    if max_context >= ROOMY_CONTEXT or given & {"--tools", BARE}:
        return []
    return [FEW_TOOLS if max_context >= SMALL_CONTEXT else BARE]


def context_limits(max_context: int) -> dict[str, str]:
    """Return the variables that tell the client how long conversations and answers may be.

    An answer gets at most a quarter of the context, or an eighth of a short one: the client compacts as many
    tokens earlier as an answer may have.
    """
    share = 4 if max_context >= ROOMY_CONTEXT else 8
    return {
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(max_context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(min(MAX_OUTPUT_TOKENS, max_context // share)),
    }


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL at which a client on this machine finds a server that listens on `host`."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"{scheme}://{everywhere.get(host, f'[{host}]' if ':' in host else host)}:{port}"
