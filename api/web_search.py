"""Searches the web by a command of the user's, for clients that leave their searches to the server."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

Json = Any

LIMIT_S = 30.0  # for one search
MAX_OUTPUT_BYTES = 1_000_000
MAX_QUERY_CHARS = 1000
MAX_HITS, MAX_TITLE_CHARS, MAX_TEXT_CHARS = 10, 300, 1500  # some 4,000 tokens in all
MAX_SEARCHES = 4  # at a time

QUERY = "{query}"
OPTION_STARTS = "-@/ "
SECRETS = ("PENSIEVE_API_KEY",)

TITLE_KEYS, URL_KEYS = ("title", "name"), ("url", "link", "href")
TEXT_KEYS = ("text", "content", "snippet", "description", "body")


class SearchFailed(Exception):
    """A search that has no result; its text is for the model."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a search has found; without a URL it is the whole output of a command."""

    title: str
    url: str
    text: str


class SearchCommand:
    """A program with arguments, run without a shell.

    It gets the query in the place of `{query}` in its arguments, else on its standard input. It prints a JSON
    list of objects, one such object a line, or a text.
    """

    def __init__(self, arguments: abc.Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._places = asyncio.Semaphore(MAX_SEARCHES)

    async def search(self, query: str) -> list[Hit]:
        """Search. Raises SearchFailed."""
        query = " ".join(query.replace("\0", " ").split())[:MAX_QUERY_CHARS]
        if not query:
            raise SearchFailed("The query is empty.")
        async with self._places:
            output = await self._run(query.encode("utf-8", "replace").decode())
        return list(read_hits(output))[:MAX_HITS]

    async def _run(self, query: str) -> str:
        is_argument = any(QUERY in argument for argument in self._arguments)
        if is_argument:
            query = query.lstrip(OPTION_STARTS)  # the model's words must not become an option of the program
            if not query:
                raise SearchFailed("The query has no words.")
        arguments = [argument.replace(QUERY, query) for argument in self._arguments]
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: words that the system's encoding does not have
            logger.error("the search command cannot be started: %s", error)
            raise SearchFailed("The search command cannot be started.") from error
        try:
            async with asyncio.timeout(LIMIT_S):
                output = await _exchange(process, b"" if is_argument else query.encode())
                status = await process.wait()
        except TimeoutError as error:
            logger.error("the search command took more than %.0f s", LIMIT_S)
            raise SearchFailed("The search took too long.") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: it has ended
                os.killpg(process.pid, signal.SIGKILL)
        if status:
            logger.error("the search command ended with status %d", status)
            raise SearchFailed("The search command failed.")
        return output.decode("utf-8", "replace")


async def _exchange(process: asyncio.subprocess.Process, given: bytes) -> bytes:
    """Write to a process, and return the beginning of what it prints."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()
    kept = bytearray()
    while part := await process.stdout.read(65536):
        kept += part[: MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)


def read_hits(output: str) -> Iterator[Hit]:
    """Read what a command has printed: JSON as a whole, JSON in lines, or a text."""
    entries = _entries(output)
    if entries is None:
        if text := output.strip():
            yield Hit("Search results", "", text[: MAX_HITS * MAX_TEXT_CHARS])
        return
    for entry in entries:
        if isinstance(entry, dict):
            title, url = _first(entry, TITLE_KEYS), _first(entry, URL_KEYS)
            yield Hit(title[:MAX_TITLE_CHARS] or url, url, _first(entry, TEXT_KEYS)[:MAX_TEXT_CHARS])


def _entries(output: str) -> list[Json] | None:
    """Return the values of JSON; None for a text."""
    try:
        whole = json.loads(output)
    except (ValueError, RecursionError):
        lines = [line for line in output.splitlines() if line.lstrip().startswith("{")]
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(line))
        return found or None
    if isinstance(whole, dict):
        listed = whole.get("results", whole.get("items"))
        return listed if isinstance(listed, list) else [whole]
    return whole if isinstance(whole, list) else None


def _first(entry: dict[str, Json], keys: abc.Iterable[str]) -> str:
    """Return the first text under one of some keys, without lone surrogates."""
    found = next((entry[key] for key in keys if isinstance(entry.get(key), str)), "")
    return found.encode("utf-8", "replace").decode()


def in_domains(url: str, domains: abc.Iterable[str]) -> bool:
    """Return whether a URL lies in one of some domains, each with a path or without."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    for domain in domains:
        host, slash, path = domain.lower().removeprefix("https://").removeprefix("http://").partition("/")
        own = (parts.hostname or "").lower()
        if (own == host or own.endswith(f".{host}")) and parts.path.startswith(slash + path):
            return True
    return False
