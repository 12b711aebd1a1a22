"""Pensieve: a local server that runs many Claude Code sessions on one MLX model."""

__version__ = "0.1.0"


class PensieveError(Exception):
    """Base of every error that Pensieve raises on purpose.

    PensieveError
    ├── engine.loader.ModelError       the model cannot be had, read or fitted
    ├── engine.thread.EngineError      a step failed, or the engine is gone
    ├── scheduler.loop.PromptTooLong   the prompt can never fit
    └── api.errors.ApiError            a request is refused, with a status
    """
