"""Measures what a full queue tells the clients that it refuses: how soon, when to be back, and is it true?

    python -m pensieve serve --model demo --max-batch 8 --max-waiting 16
    python -m pensieve.bench.micro.overload --clients 320

All clients come at once and do as the SDKs do: one that is refused is back after `retry-after`, ten times at
most.
"""

import argparse
import json
import statistics
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from ... import DEFAULT_URL, LOCAL_KEY
from ..client import spread

REFUSED = 529


@dataclass(slots=True)
class RefusedClient:
    """One client's story, in seconds. told: by each refusal. waited: from the first refusal to acceptance."""

    answered: list[float] = field(default_factory=list)  # from a refused request to its refusal
    told: list[float] = field(default_factory=list)
    waited: float = 0.0
    is_served: bool = False


def run_client(url: str, number: int, num_retries: int, client: RefusedClient) -> None:
    """Send a request until it is answered, or refused once too often."""
    body = {
        "model": "default",
        "max_tokens": 40,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": f"Write something about the number {number}."}],
    }
    headers = {"content-type": "application/json", "x-api-key": LOCAL_KEY}
    request = urllib.request.Request(f"{url}/v1/messages", json.dumps(body).encode(), headers)
    refused_s = None
    for _ in range(num_retries + 1):
        sent_s = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                client.waited = sent_s - refused_s if refused_s is not None else 0.0
                response.read()
                client.is_served = True
                return
        except urllib.error.HTTPError as error:
            if error.code != REFUSED:
                raise
            client.answered.append(time.monotonic() - sent_s)
            client.told.append(float(error.headers["retry-after"]))
        refused_s = refused_s if refused_s is not None else sent_s
        time.sleep(client.told[-1])


def main() -> None:
    """Run all clients, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--clients", type=int, default=320)
    parser.add_argument("--retries", type=int, default=10)
    args = parser.parse_args()
    clients = [RefusedClient() for _ in range(args.clients)]
    jobs = [(args.url, number, args.retries, client) for number, client in enumerate(clients)]
    threads = [threading.Thread(target=run_client, args=job) for job in jobs]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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
