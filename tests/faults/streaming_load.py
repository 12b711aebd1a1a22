"""Many streams at once on a server that is going to end, and a judge of how each of them ended."""

import http.client
import json
import threading
import time
from collections import Counter

ANSWER_TOKENS = 400

ALLOWED_S = 300  # on a machine with other work

PAUSE_S = 0.05
"""Between an answer that failed and the next request."""

COMPLETE = "message_stop"
ERROR = "an error event"
REFUSED = "529"
BROKEN = "a broken stream"
GONE = "no connection"
CLEAN_END = "a clean end without message_stop"

HONEST = frozenset({COMPLETE, ERROR, REFUSED, BROKEN, GONE})


class StreamingLoad:
    """Clients that ask for one long answer after the other until the server has gone.

    ends: how streams ended, with how many each. late_s: the longest time to the refusal of a request that was
    sent after `told`.
    """

    def __init__(self, port: int, num_clients: int, text: str = "", repeats: int = 10**6) -> None:
        """text: comes before each question. repeats: how many answers each client asks for, at most."""
        self.ends: Counter[str] = Counter()
        self.late_s = 0.0
        self._port = port
        self._text = text
        self._repeats = repeats
        self._open = 0
        self._lock = threading.Lock()
        self._told = False
        self._threads = [threading.Thread(target=self._ask_on, args=(n,)) for n in range(num_clients)]
        for thread in self._threads:
            thread.start()

    def wait_until_streaming(self) -> None:
        """Wait until all clients have got the head of an answer."""
        for _ in range(ALLOWED_S * 100):
            if self._open >= len(self._threads):
                return
            time.sleep(0.01)
        raise AssertionError("not all streams have begun")

    def told(self) -> None:
        """Note that the server is told to end now."""
        self._told = True

    def end(self) -> None:
        """Wait for all clients, whose server has gone."""
        for thread in self._threads:
            thread.join(ALLOWED_S)
            assert not thread.is_alive(), "a stream has no end"

    def ask(self, number: int = 0, stream: bool = True) -> str:
        """Ask once; return how the answer ended, one of the constants above."""
        text = f"{self._text}Count from {number + 1} to {number + 150}."
        body = {"model": "claude-x", "max_tokens": ANSWER_TOKENS, "stream": stream}
        sent = json.dumps(body | {"messages": [{"role": "user", "content": text}]})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ALLOWED_S)
        begun_s, was_told = time.monotonic(), self._told
        has_begun = False
        try:
            connection.request("POST", "/v1/messages", sent, {"content-type": "application/json"})
            answer = connection.getresponse()
            if has_begun := answer.status == 200:
                with self._lock:
                    self._open += 1
            # Only read() raises where chunks are cut off; reading lines ends as if all were there.
            content = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return BROKEN if has_begun else GONE
        finally:
            connection.close()
        if answer.status != 200:
            if was_told:
                self.late_s = max(self.late_s, time.monotonic() - begun_s)
            return REFUSED if answer.status == 529 else f"status {answer.status}"
        if not stream:
            return COMPLETE if json.loads(content)["type"] == "message" else CLEAN_END
        last = [json.loads(line[6:]) for line in content.splitlines() if line.startswith("data: ")][-1:]
        kind = last[0]["type"] if last else ""
        return {"message_stop": COMPLETE, "error": ERROR}.get(kind, CLEAN_END)

    def _ask_on(self, number: int) -> None:
        for _ in range(self._repeats):
            end = self.ask(number, stream=number % 8 != 7)
            with self._lock:
                self.ends[end] += 1
            if end == GONE and self._is_gone():
                return
            if end != COMPLETE:
                time.sleep(PAUSE_S)
            number += 1000

    def _is_gone(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ALLOWED_S)
        try:
            connection.connect()
        except OSError:
            return True
        finally:
            connection.close()
        return False
