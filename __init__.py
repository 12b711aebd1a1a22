"""Pensieve: a local server that runs many Claude Code sessions on one MLX model."""

__version__ = "0.1.0"

# Where the server listens and which key its clients send, unless a flag says otherwise. The API listens
# there, and the bench is a client like any other.
DEFAULT_PORT = 7777
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
LOCAL_KEY = "pensieve-local-key"  # any key is accepted on loopback, but Claude Code wants one


class PensieveError(Exception):
    """Base of every error that Pensieve raises on purpose.

    PensieveError
    ├── engine.loading.model_error.ModelError  the model cannot be had, read or fitted
    ├── api.command.serve.EngineGivenUp        the engine failed for good while it served
    ├── scheduler.exceptions: five             a request is refused, or ended with the engine
    └── api.errors.ApiError                    a request is refused, with a status
    """
