"""`pensieve sessions`: shows what the sessions of a running server do, and drops one."""

import http.client
import json
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ... import PensieveError
from ..config import ServerConfig
from .certificates import open_directly
from .client_environment import base_url
from .console import say
from .session_rows import shown, table_lines

TIMEOUT_S = 10.0
REDRAW_S = 1.0
MAX_ID_CHARS = 100  # of an id that is printed

CLEAR = "\x1b[H\x1b[J"
"""Moves the cursor to the first place of a terminal and clears what stands behind it."""


class ServerProblem(PensieveError):
    """The server does not answer, or refuses to."""


def show_sessions(config: ServerConfig, *, watch: bool = False, as_json: bool = False) -> None:
    """Print the sessions; with `watch` each second anew, until it is interrupted. Raises ServerProblem."""
    if not watch:
        say("\n".join(_shown(config, as_json)))
        return
    try:
        while True:
            try:
                lines = _shown(config, as_json)
            except ServerProblem as problem:  # the server may come back
                lines = [f"pensieve: {problem}"]
            _draw(lines, on_terminal=sys.stdout.isatty() and not as_json)
            time.sleep(REDRAW_S)
    except KeyboardInterrupt:
        return


def drop_session(config: ServerConfig, name: str) -> None:
    """Free a session's KV, and say how much. Raises ServerProblem."""
    path = f"/v1/sessions/{urllib.parse.quote(name, safe='')}"
    dropped = json.loads(_ask(config, path, "DELETE"))
    text = f"session {shown(dropped['id'], MAX_ID_CHARS)}: {dropped['freed_tokens']:,} tokens freed"
    if num_requests := dropped["requests_under_way"]:
        text += f"; requests under way go on: {num_requests}"
    say(text)


def _shown(config: ServerConfig, as_json: bool) -> list[str]:
    text = _ask(config, "/v1/sessions")
    return [text] if as_json else table_lines(json.loads(text)["sessions"])


def _draw(lines: list[str], *, on_terminal: bool) -> None:
    """Print lines; on a terminal in place of those before, cut to the terminal's size."""
    if on_terminal:
        width, height = shutil.get_terminal_size()
        lines = [CLEAR + lines[0][:width], *(line[:width] for line in lines[1 : height - 1])]
    say("\n".join(lines))


def _ask(config: ServerConfig, path: str, method: str = "GET") -> str:
    """Send a request without a body; return the text of the answer. Raises ServerProblem."""
    if not config.port:
        raise ServerProblem("--port 0 names no server: give the port that it listens on")
    url = base_url(config.host, config.port, config.scheme)
    headers = {"x-api-key": config.api_key} if config.api_key else {}
    request = urllib.request.Request(f"{url}{path}", headers=headers, method=method)
    try:
        with open_directly(config).open(request, timeout=TIMEOUT_S) as response:
            return str(response.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        raise ServerProblem(f"the server at {url} refuses: {_message(error)}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            raise ServerProblem(f"no server answers at {url}") from error
        raise ServerProblem(f"the server at {url} cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerProblem(f"what answers at {url} is not Pensieve: give another --port") from error


def _message(error: urllib.error.HTTPError) -> str:
    """Return what the body of an error says, or its status."""
    try:
        body: Any = json.loads(error.read())
        return str(body["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"status {error.code}"
