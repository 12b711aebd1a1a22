"""The error of everything between a model's name and a loaded model."""

from ... import PensieveError


class ModelError(PensieveError):
    """The model cannot be had, read or fitted; the message is one line for the user."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's message in one line of at most `limit` characters."""
    lines = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return (lines or type(error).__name__)[:limit]
