"""The errors that a caller of the scheduler's loop may get instead of what was asked for.

PensieveError
├── PromptTooLong    the prompt can never fit
├── QueueFull        as many requests wait as are allowed to
├── UnclearSession   a session's name names none, or several
├── WaitedTooLong    the request has waited for its first step as long as requests may
├── EngineDown       the engine has been given up; no request is taken any more
│   └── Stopping     the server is being stopped in good order
└── EngineFailed     the engine failed while it computed the request
"""

from .. import PensieveError


class PromptTooLong(PensieveError):
    """The prompt can never fit: it leaves no room for an answer within `max_context`."""

    def __init__(self, num_tokens: int, max_tokens: int) -> None:
        super().__init__(f"prompt is too long: {num_tokens} tokens > {max_tokens} maximum")
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens


class QueueFull(PensieveError):
    """As many requests wait as are allowed to (`SchedulerConfig.max_waiting`)."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many requests are waiting")
        self.retry_after_s = retry_after_s


class WaitedTooLong(PensieveError):
    """The request has waited for its first step as long as requests may (`SchedulerConfig.max_wait_s`)."""


class UnclearSession(PensieveError):
    """A name names no session, or is the beginning of several sessions' names."""

    def __init__(self, name: str, num_found: int) -> None:
        problem = "no session has" if not num_found else f"{num_found} sessions have"
        super().__init__(f"{problem} the name, or a name that begins with, {name[:100]!r}")
        self.num_found = num_found


class EngineDown(PensieveError):
    """The engine has been given up; no request is taken any more."""


class Stopping(EngineDown):
    """The server is being stopped in good order."""


class EngineFailed(PensieveError):
    """The engine failed while it computed this request."""
