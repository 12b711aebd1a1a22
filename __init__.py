"""Pensieve: a local server that runs many Claude Code sessions on one MLX model."""

__version__ = "0.1.0"

# Defaults that API and bench share: the server's port and URL, and the key that clients send.
DEFAULT_PORT = 7777
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
LOCAL_KEY = "pensieve-local-key"  # any key is accepted on loopback, but Claude Code wants one


class PensieveError(Exception):
    """Base of every error that Pensieve raises on purpose.

    PensieveError
    ├── cache.disk.folder.FolderError          the folder for KV on disk cannot be used
    ├── engine.loading.model_error.ModelError  the model cannot be fetched, read or fitted into memory
    ├── scheduler.exceptions: five             a request is refused, or ended with the engine
    ├── api.errors.ApiError                    a request is refused, with a status
    ├── api.command.flags.UsageError           the command line is wrong
    ├── api.command.launch.LaunchError         the client or the server cannot be started or found
    ├── api.command.serve.ListenError          the address or port cannot be listened on
    ├── api.command.serve.EngineGivenUp        the engine failed for good while it served
    └── bench.main.BenchFailed                 the bench got no answer
    """
