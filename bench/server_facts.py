"""What the bench asks a server beside its requests."""

import http.client
import json
import random
import urllib.parse
from collections import abc
from typing import Any

from .. import PensieveError
from .config import BenchConfig
from .filler_words import words

SAMPLE_CHARS = 8000

TYPICAL_TOKEN_CHARS = 2.5
"""Of made-up words, where the server does not count tokens."""


class ServerSilent(PensieveError):
    """The server cannot be asked."""


def token_chars(config: BenchConfig) -> float:
    """Return the characters of a token of made-up words, as the server counts. Raises ServerSilent."""
    counts = [_count(config, length) for length in (1, SAMPLE_CHARS)]
    if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
        return TYPICAL_TOKEN_CHARS
    return (SAMPLE_CHARS - 1) / (counts[1] - counts[0])


def device_times(config: BenchConfig, session_ids: abc.Iterable[str]) -> tuple[float, ...]:
    """Return the milliseconds that the device has computed for each session; none where one is not told."""
    try:
        answer = _ask(config, "GET", "/v1/sessions")
    except ServerSilent:
        return ()
    rows = answer.get("sessions") if isinstance(answer, dict) else None
    known = {
        row["id"]: row["device_ms"]
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and {"id", "device_ms"} <= row.keys()
    }
    wanted = list(session_ids)
    found = tuple(known[one] for one in wanted if isinstance(known.get(one), int | float))
    return found if len(found) == len(wanted) else ()


def _count(config: BenchConfig, length: int) -> int | None:
    text = words(random.Random("sample"), length)
    body = {"model": config.model, "messages": [{"role": "user", "content": text}]}
    answer = _ask(config, "POST", "/v1/messages/count_tokens", body)
    count = answer.get("input_tokens") if isinstance(answer, dict) else None
    return count if isinstance(count, int) else None


def _ask(config: BenchConfig, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON that the server answers; None where it answers anything else. Raises ServerSilent."""
    address = urllib.parse.urlsplit(config.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=config.timeout_s)
    headers = {"content-type": "application/json", "x-api-key": config.api_key}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        return json.loads(content) if response.status == 200 else None
    except ValueError:
        return None
    except (OSError, http.client.HTTPException) as error:
        raise ServerSilent(f"no connection to {config.url}: {error}") from error
    finally:
        connection.close()
