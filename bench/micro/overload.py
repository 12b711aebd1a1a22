"""Measures what a full queue tells the clients that it refuses: how soon, when to be back, and is it true?

    python -m pensieve serve --model demo --max-batch 8 --max-waiting 16 --disk-cache-gb 0
    python -m pensieve.bench.micro.overload --clients 320

All clients connect, then send at once, and do as the SDKs do: one that is refused is back after
`retry-after`, ten times at most. One event loop plays them all, and does nothing until the first answer but
write requests that it has made before: threads or an HTTP library would take longer than the server does.

With `--words 16000` each body has 80 kB, as those of Claude Code have. All prompts begin alike then, and one
request before the others has the beginning computed: the question is how soon a refusal comes to a client
that sends much, not how long a prompt takes.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ... import DEFAULT_URL, LOCAL_KEY
from ..client import spread

REFUSED, SERVED = 529, 200

PATIENCE_S = 600.0


@dataclass(slots=True)
class RefusedClient:
    """One client's story, in seconds. told: by each refusal. waited: from the first refusal to acceptance."""

    answered: list[float] = field(default_factory=list)  # from a refused request to its refusal
    told: list[float] = field(default_factory=list)
    waited: float = 0.0
    is_served: bool = False


class Connection(asyncio.Protocol):
    """A connection for one request. status: after the first bytes of the answer, which come at `status_s`."""

    def __init__(self) -> None:
        self.sent_s = self.status_s = 0.0
        self.status = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.answer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Send a request, and note the time."""
        assert self._transport is not None, "connection_made comes first"
        self.sent_s = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note when the answer begins, and its status."""
        if not self.status.done():
            self.status_s = time.monotonic()
            self.status.set_result(int(data.split(b" ", 2)[1]))
        self.answer += data

    def connection_lost(self, error: Exception | None) -> None:
        """End the wait for the answer."""
        for waited in (self.status, self.ended):
            if not waited.done():
                waited.set_result(0)


def request_of(number: int, num_words: int, host: str) -> bytes:
    """Return the bytes of one client's request; its connection ends with the answer."""
    content = "word " * num_words + f"Write something about the number {number}."
    messages = [{"role": "user", "content": content}]
    body = {"model": "default", "max_tokens": 40, "ignore_eos": True, "messages": messages}
    data = json.dumps(body).encode()
    lines = (
        "POST /v1/messages HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"x-api-key: {LOCAL_KEY}",
        "connection: close",
        f"content-length: {len(data)}",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + data


async def connect(host: str, port: int) -> Connection:
    """Return a new connection to the server."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


async def run_client(
    connection: Connection, request: bytes, place: tuple[str, int], num_retries: int, client: RefusedClient
) -> None:
    """Send a request until it is answered, or refused once too often. connection: is open, for the first."""
    first_s = None
    for _ in range(num_retries + 1):
        connection.send(request)
        status = await asyncio.wait_for(connection.status, PATIENCE_S)
        first_s = connection.sent_s if first_s is None else first_s
        await asyncio.wait_for(connection.ended, PATIENCE_S)
        if status == SERVED:
            client.waited, client.is_served = connection.sent_s - first_s, True
            return
        if status != REFUSED:
            raise RuntimeError(f"the server has answered: {bytes(connection.answer[:300])!r}")
        client.answered.append(connection.status_s - connection.sent_s)
        client.told.append(_retry_after(bytes(connection.answer)))
        if len(client.told) <= num_retries:
            await asyncio.sleep(client.told[-1])
            connection = await connect(*place)


def _retry_after(answer: bytes) -> float:
    fields = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    return float(next(line.partition(b":")[2] for line in fields if line.startswith(b"retry-after:")))


async def run_all(args: argparse.Namespace) -> list[RefusedClient]:
    """Run all clients at once, and return their stories."""
    url = urlsplit(args.url)
    place = url.hostname or "127.0.0.1", url.port or 80
    if args.words:
        warm_up = request_of(0, args.words, url.netloc)
        await run_client(await connect(*place), warm_up, place, 0, RefusedClient())
    requests = [request_of(number, args.words, url.netloc) for number in range(args.clients)]
    connections = [await connect(*place) for _ in requests]
    clients = [RefusedClient() for _ in requests]
    jobs = [
        run_client(connection, request, place, args.retries, client)
        for connection, request, client in zip(connections, requests, clients, strict=True)
    ]
    await asyncio.gather(*jobs)
    return clients


def main() -> None:
    """Run all clients, and print what became of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--clients", type=int, default=320)
    parser.add_argument("--retries", type=int, default=10)
    parser.add_argument("--words", type=int, default=0, help="of each prompt, before a short sentence")
    args = parser.parse_args()
    started_s = time.monotonic()
    clients = asyncio.run(run_all(args))
    refused = [client for client in clients if client.told]
    ratios = sorted(client.waited / client.told[0] for client in refused if client.is_served)
    print(f"served {sum(client.is_served for client in clients)} of {len(clients)}", end=" ")
    print(f"in {time.monotonic() - started_s:.0f} s; refused at first {len(refused)}")
    print("a refusal, ms, the first:", spread([client.answered[0] * 1000 for client in refused]))
    later = [seconds * 1000 for client in refused for seconds in client.answered[1:]]
    print("a refusal, ms, the later ones:", spread(later) if later else "-")
    print(f"refusals a client: {statistics.mean(len(client.told) for client in clients):.1f}", end=", ")
    print(f"at most {max(len(client.told) for client in clients)}")
    within = sum(0.5 <= ratio <= 2 for ratio in ratios)
    if ratios:
        print(f"waited / told first: {spread(ratios)}, within a factor of two {within} of {len(ratios)}")


if __name__ == "__main__":
    main()
