"""What commands print for people."""


def say(text: str) -> None:
    """Print a line and flush it, so that it shows at once in a pipe as well."""
    print(text, flush=True)
