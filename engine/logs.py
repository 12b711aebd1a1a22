"""Logging, the same in both processes."""

import logging


def set_up_logging(level: str) -> None:
    """Log Pensieve at `level` and its libraries from warnings upwards, on standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("pensieve").setLevel(level.upper())
    # transformers warns of each prompt longer than the model's context; the API refuses such prompts itself.
    logging.getLogger("transformers").setLevel(logging.ERROR)
